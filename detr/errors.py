"""Errors of the user's input."""

from collections.abc import Collection
from difflib import get_close_matches


class InputError(ValueError):
    """The user's input is wrong. The message names file or setting, value and remedy; commands exit with 2."""


def alternatives(value: object, known: Collection[str]) -> str:
    """End a message on a value that is none of the known ones: name the nearest, if any is near, and all."""
    close = get_close_matches(str(value), known, n=1)
    start = f"did you mean {close[0]}? There" if close else "there"
    return f"{start} are {', '.join(known)}"
