"""Where worker processes run. One module a choice of `launcher=`, all with the same interface.

A launcher starts `python -m MODULE ARGUMENT ...` and answers with something that can be asked what a subprocess.Popen
can be. Everything else passes through run directories, or through the study of a sweep.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from experiments.schema.store import ROOT


class Process(Protocol):
    """A started worker."""

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and leave."""


class Launcher(Protocol):
    """A way to run worker processes."""

    width: int  # processes that run at the same time
    depth: int  # processes to start before the first has ended; a queue takes all
    here: bool  # they run on this machine
    farewell: str  # what becomes of the work when this command is stopped

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> Process:
        """Start `python -m module...`; what it says is appended to `log`. A launcher that waits for the process' end
        calls `watch` now and then.
        """


def importable() -> dict[str, str]:
    """Environment in which this copy of the packages is found."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
