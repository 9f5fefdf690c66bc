"""A user's own parts, named by dotted paths: how they are found, called, and checked before a run spends time."""

import importlib
import re
from collections.abc import Callable
from inspect import signature
from typing import Any

from detr.errors import InputError, require


def check_path(setting: str, path: str | None, options: dict[str, Any] | None = None) -> None:
    """InputError unless the path has the form of a dotted path, and options have a part to go to."""
    form = path is None or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path)
    require(bool(form), setting, path, "write package.module:name")
    require(
        not options or path is not None,
        setting.replace("target", "options"),
        options,
        f"belongs to {setting}, which is not set",
    )


def load_object(setting: str, path: str) -> Callable[..., Any]:
    """Import what "package.module:name" names. InputError when there is no such module or name, or it is not callable.

    What the module's own code raises on import is not caught: its traceback leads to the fault.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # the module is there, and lacks one that it imports
            raise
        raise InputError(
            f"{setting}={path!r}: there is no module {error.name}; install it, or put its folder on PYTHONPATH"
        ) from None
    try:
        found: Callable[..., Any] = getattr(module, name)
    except AttributeError:
        raise InputError(f"{setting}={path!r}: {module.__file__} has no {name}") from None
    if not callable(found):
        raise InputError(f"{setting}={path!r}: is {type(found).__name__}, not a function or class")
    return found


def call(setting: str, path: str, *arguments: Any, **options: Any) -> Any:
    """Import and call a user's part. InputError when its signature does not take the arguments and options."""
    function = load_object(setting, path)
    try:
        signature(function).bind(*arguments, **options)
    except TypeError as error:
        shown = [type(argument).__name__ for argument in arguments] + [f"{key}=" for key in options]
        raise InputError(f"{setting}={path!r}: cannot be called with ({', '.join(shown)}): {error}") from None
    return function(*arguments, **options)
