"""Which arms are compared with which, what changes between them, and how long they ran: pure functions of a design.

A design is the plain dict that `Ablation.describe` stores: arms (name -> levels), factors (name -> levels, the
baseline's first), baseline (an arm), primary, settings (arm -> the settings in which arms differ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

PRIMARY, SECONDARY, EXPLORATORY = "primary", "secondary", "exploratory"


@dataclass(frozen=True)
class Contrast:
    """A difference of AP between arms: the mean of arm minus counterpart over all pairs."""

    label: str  # "clip 1.0 against 0.1"
    role: str  # primary | secondary | exploratory
    pairs: tuple[tuple[str, str], ...]  # (arm, the arm it is compared with)
    changes: tuple[str, ...] = ()  # settings in which the arms of a pair differ

    @property
    def arms(self) -> list[str]:
        """The arms of the first side."""
        return [arm for arm, _ in self.pairs]

    @property
    def against(self) -> list[str]:
        """The arms of the second side."""
        return [arm for _, arm in self.pairs]

    @property
    def described(self) -> str:
        """The label, with everything that changes where that is more than one setting."""
        return f"{self.label} (changes {listed(self.changes)} at once)" if len(self.changes) > 1 else self.label


def contrasts(design: Mapping[str, Any]) -> list[Contrast]:
    """The primary contrast, the secondary and the exploratory ones, each difference once.

    A factor's level against its baseline's, averaged over the other factors' levels, is secondary; an arm against the
    baseline arm is exploratory. Where no two arms differ in one factor alone, the latter are secondary.
    """
    factors = [
        _of_levels(design, factor, level, baseline)
        for factor, (baseline, *others) in design["factors"].items()
        for level in others
    ]
    factors = [contrast for contrast in factors if contrast.pairs]
    baseline = design["baseline"]
    arms = [_of_arms(design, arm, baseline) for arm in design["arms"] if arm != baseline and baseline in design["arms"]]
    first = _primary(design) or next(iter(factors or arms), None)
    if first is None:
        return []
    roles = [(PRIMARY, [first]), (SECONDARY, factors or arms), (EXPLORATORY, arms)]
    kept: dict[tuple[tuple[str, str], ...], Contrast] = {}
    for role, found in roles:
        for contrast in found:
            backwards = tuple((b, a) for a, b in contrast.pairs)
            if contrast.pairs not in kept and backwards not in kept:
                kept[contrast.pairs] = Contrast(contrast.label, role, contrast.pairs, contrast.changes)
    return list(kept.values())


def factor_pairs(arms: Mapping[str, Mapping[str, str]], factor: str, level: str, against: str) -> list[tuple[str, str]]:
    """Pairs of arms that have these two levels of the factor and the same level of every other one."""

    def others(arm: str) -> dict[str, str]:
        return {name: value for name, value in arms[arm].items() if name != factor}

    return [
        (a, b)
        for a in arms
        for b in arms
        if arms[a][factor] == level and arms[b][factor] == against and others(a) == others(b)
    ]


def differing(settings: Mapping[str, Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Settings in which the arms of any pair differ, in their order; none are known of an arm without settings."""
    found: dict[str, None] = {}
    for a, b in pairs:
        one, other = settings.get(a, {}), settings.get(b, {})
        found |= dict.fromkeys(key for key in one if key in other and one[key] != other[key])
    return tuple(found)


def comparison(lengths: pd.DataFrame) -> str:
    """In what the arms are equally long, and in what not: "equal steps (600) and epochs (4.8), unequal fraction ...".

    lengths:  one row an arm: steps, epochs, fraction (of the published schedule, 0..1), as run or planned
    """
    known = lengths.dropna()
    if known.empty:
        return "lengths unknown"
    shown = {
        "steps": [f"{v:.0f}" for v in known["steps"]],
        "epochs": [f"{v:.3g}" for v in known["epochs"]],
        "fraction of the schedule": [f"{100 * v:.3g} %" for v in known["fraction"]],
    }
    if len(known) == 1:
        steps, epochs, fraction = (texts[0] for texts in shown.values())
        return f"{steps} steps, {epochs} epochs, {fraction} of the schedule"
    equal = [f"{unit} ({texts[0]})" for unit, texts in shown.items() if len(set(texts)) == 1]
    places = {unit: (known[unit.split()[0]].argmin(), known[unit.split()[0]].argmax()) for unit in shown}
    ends = {unit: (shown[unit][low], shown[unit][high]) for unit, (low, high) in places.items()}
    unequal = [f"{unit} ({low} to {high})" for unit, (low, high) in ends.items() if low != high]
    parts = [f"{word} {listed(units)}" for word, units in (("equal", equal), ("unequal", unequal)) if units]
    return ", ".join(parts)


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _primary(design: Mapping[str, Any]) -> Contrast | None:
    given = design.get("primary")
    if not given:
        return None
    if "factor" in given:
        return _of_levels(design, given["factor"], given["level"], given["against"])
    return _of_arms(design, given["arm"], given["against"])


def _of_levels(design: Mapping[str, Any], factor: str, level: str, against: str) -> Contrast:
    pairs = tuple(factor_pairs(design["arms"], factor, level, against))
    return Contrast(f"{factor} {level} against {against}", "", pairs, differing(design.get("settings", {}), pairs))


def _of_arms(design: Mapping[str, Any], arm: str, against: str) -> Contrast:
    pairs = ((arm, against),)
    return Contrast(f"{arm} against {against}", "", pairs, differing(design.get("settings", {}), pairs))
