"""Command line that `run.py` and `sweep.py` share: settings in, an exit code out."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable

from rich.console import Console

from detr.errors import run_command
from experiments.definition.compose import describe

LOG_WIDTH = 160  # columns; logs are not folded at 80


def parse_overrides(description: str | None, primary: str, arguments: list[str] | None) -> list[str]:
    """Parse the settings of a command line.

    primary:  config of conf/ whose choices --help lists, see `experiments.definition.compose`
    """
    parser = ArgumentParser(
        description=description, epilog=describe(primary), formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="setting=value", help="choices and settings, see below")
    return parser.parse_args(arguments).overrides


def run_overrides(command: Callable[[list[str], Console], int], overrides: list[str]) -> int:
    """Run a command in the first of the processes that were started together; returns the exit code."""
    from experiments.runs.ranks import lead  # imports torch, which --help does not wait for
    from experiments.tracking.client import configure_mlflow

    configure_mlflow()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
    return run_command(lambda: lead(lambda: command(overrides, console)))
