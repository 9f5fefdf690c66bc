"""Errors that are not ours."""


class InputError(ValueError):
    """The user's input is wrong. The message names file or setting, value and remedy; commands exit with 2."""
