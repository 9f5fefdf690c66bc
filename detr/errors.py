"""Errors that are not ours."""


class InputError(ValueError):
    """The user's input is wrong. The message names the file or setting, the value and the remedy; commands exit with 2."""
