"""Interface of the launchers, which start worker processes on some kind of machine.

A launcher starts `python -m MODULE ARGUMENT ...` and returns an object with the part of subprocess.Popen that `Process`
lists. Everything else passes through run directories, or through the study of a sweep.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from experiments.schema.store import ROOT


class Process(Protocol):
    """Started worker."""

    @property
    def returncode(self) -> int | None:
        """Exit code, None before `poll` has seen the end."""

    def poll(self) -> int | None:
        """Look whether it has ended; returns the exit code, None while it runs."""

    def terminate(self) -> None:
        """Ask the worker to save and leave."""


class Launcher(Protocol):
    """Starts worker processes."""

    width: int  # processes that run at the same time
    depth: int  # processes to start before the first has ended; a queue takes all
    here: bool  # whether they run on this machine
    farewell: str  # printed when this command is stopped: what becomes of the work

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> Process:
        """Start `python -m module...` with its output appended to `log`. A launcher that waits for the process' end
        calls `watch` now and then.
        """


def importable() -> dict[str, str]:
    """Environment variables with which a process finds this copy of the packages."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
