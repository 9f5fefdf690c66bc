"""The design of an ablation as it was stored, checked: whoever reads it need not ask again.

It is what `Ablation.describe` writes. A file that another program cut off, changed or made is told by its first fault.
"""

from collections.abc import Callable, Mapping
from typing import Any


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _levels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(level, str) for level in value.values())


def _dict_of(is_sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_sound, value.values()))


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _settings(value: Any) -> bool:
    """Of one arm: setting -> a plain value."""
    return isinstance(value, dict)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda x: isinstance(x, str), "a text"),
    "question": (lambda x: isinstance(x, str), "a text"),
    "design": (lambda x: isinstance(x, str), "a text"),
    "horizon": (lambda x: isinstance(x, str), "a text"),
    "baseline": (lambda x: isinstance(x, str), "the name of an arm"),
    "factors": (_dict_of(lambda x: _texts(x) and len(x) > 0), "names with their levels"),
    "arms": (_dict_of(_levels), "names with a level of each factor"),
    "seeds": (lambda x: isinstance(x, list) and all(type(y) is int and 0 <= y < 2**63 for y in x), "whole numbers"),
}
OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "margin": (_number, "a number"),
    "settings": (_dict_of(_settings), "arms with their settings"),
    "images": (lambda x: isinstance(x, str), "a folder"),
    "primary": (lambda x: x is None or _levels(x), "two levels of a factor, or two arms"),
}


def fault(design: Any) -> str:
    """What is wrong with the content of a design's file; "" where nothing is."""
    if not isinstance(design, dict):
        return f"it must hold an object, not {str(design)[:50]!r}"
    for key, (is_sound, kind) in (RULES | OPTIONAL).items():
        if key not in design and key in RULES:
            return f"it lacks {key!r}"
        if key in design and not is_sound(design[key]):
            return f"{key!r} must be {kind}, not {str(design[key])[:50]!r}"
    return _contradiction(design)


def _contradiction(design: Mapping[str, Any]) -> str:
    factors, arms = design["factors"], design["arms"]
    for arm, levels in arms.items():
        if levels.keys() != factors.keys() or any(levels[name] not in factors[name] for name in factors):
            return f"the arm {arm[:50]!r} is no combination of the factors' levels"
    primary = design.get("primary") or {}
    known = (
        primary.get("factor") in factors and {"level", "against"} <= primary.keys()
        if "factor" in primary
        else {primary.get("arm"), primary.get("against")} <= arms.keys()
    )
    return "" if not primary or known else "the primary contrast names what is not in the design"
