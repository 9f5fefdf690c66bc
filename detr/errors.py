"""Errors that are not faults of this program, and the exit codes and lines with which every command tells them."""

import sys
from collections.abc import Callable, Collection
from difflib import get_close_matches
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of all commands."""

    DONE = 0
    FAILED = 1  # a run, or what the command needs
    WRONG_INPUT = 2
    STOPPED = 3  # and resumable: the same command goes on
    HELD = 4  # of a worker: another process has its run


class CommandError(Exception):
    """Base of the errors that end a command with one line instead of a traceback."""

    exit_code: ClassVar[ExitCode]
    line: ClassVar[str] = "error: {}"


class InputError(CommandError, ValueError):
    """The user's input is wrong. The message names file or setting, value and remedy."""

    exit_code = ExitCode.WRONG_INPUT


class UnavailableError(CommandError, RuntimeError):
    """The input is right, and something that the work needs is not there: a server, a disk. The message says which."""

    exit_code = ExitCode.FAILED


class LostProcess(CommandError, RuntimeError):
    """Another process of the run died or did not answer in time; the run goes on from its last checkpoint."""

    exit_code = ExitCode.STOPPED
    line = "stopped: {}; the same command goes on"


def run_command(command: Callable[[], int], passing: tuple[type[CommandError], ...] = ()) -> int:
    """Run a command's body; returns its exit code, or that of the error that ended it, told in a line on stderr.

    passing:  errors that whoever calls the command wants to meet itself
    """
    try:
        return command()
    except passing:
        raise
    except CommandError as error:
        sys.stderr.write(f"{error.line.format(error)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on\n")
        return ExitCode.STOPPED


def require(holds: bool, setting: str, value: object, remedy: str) -> None:
    """InputError that names the setting, its value and the remedy, unless the condition holds."""
    if not holds:
        raise InputError(f"{setting}={value!r}: {remedy}")


def alternatives(value: object, known: Collection[str]) -> str:
    """End a message on a value that is none of the known ones: name the nearest, if any is near, and all."""
    close = get_close_matches(str(value), known, n=1)
    start = f"did you mean {close[0]}? There" if close else "there"
    return f"{start} are {', '.join(known)}"
