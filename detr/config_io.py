"""Strict conversion between plain dicts and configuration dataclasses."""

import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from detr.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_dict(cls: type[T], values: dict[str, Any], path: str = "") -> T:
    """Build the dataclass `cls` from nested dicts.

    Raises InputError that names the dotted key for a key that the class does not have, for a value of a wrong type and
    for a missing key without default. An int is accepted where a float is asked for; nothing else is converted.
    """
    if not isinstance(values, dict):
        raise InputError(f"{path or cls.__name__} must be a group of settings, not {values!r}")
    known = {f.name for f in fields(cls)}
    for key in values:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {_join(path, close[0])}?" if close else f"there are {', '.join(sorted(known))}"
            raise InputError(f"unknown setting {_join(path, key)}: {hint}")
    for f in fields(cls):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{_join(path, f.name)} is missing")
    hints = get_type_hints(cls)
    return cls(**{key: _convert(hints[key], value, _join(path, key)) for key, value in values.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """Convert to nested dicts of plain values, ready for JSON and YAML; `from_dict` gives an equal config back."""
    return _plain(asdict(config))


def flatten(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested dicts to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, _join(path, key)) if isinstance(value, dict) else {_join(path, key): value}
    return flat


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return from_dict(hint, value, path)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        # bool is an int to Python: 1 == True must not pass for a choice
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        raise InputError(f"{path}={value!r}: choose from {', '.join(map(str, args))}")
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return _convert(option, value, path)
            except InputError:
                continue
    elif origin is tuple and args[-1] is ...:
        if isinstance(value, list | tuple):
            return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(args):
            return tuple(_convert(arg, item, path) for arg, item in zip(args, value, strict=True))
    elif hint is float and type(value) is int and value.bit_length() < 1024:  # a larger one is no float
        return float(value)
    elif type(value) is hint:
        return value
    raise InputError(f"{path}={value!r}: must be {_name(hint)}, not {type(value).__name__}")


def _name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(arg) for arg in get_args(hint))
    if get_origin(hint) is tuple:
        args = get_args(hint)
        return "a list" if args[-1] is ... else f"a list of {len(args)} numbers"
    if get_origin(hint) is dict:
        return "a group of settings"
    return {types.NoneType: "null"}.get(hint) or hint.__name__


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
