"""Runs one after the other in this very process: under a debugger, and in all the processes that torchrun started."""

import importlib
import threading
from collections.abc import Callable
from pathlib import Path

WATCH_SECONDS = 0.3


class Ended:
    """A process that has ended already."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        """The exit code."""
        return self.returncode

    def terminate(self) -> None:
        """There is nothing left to stop."""


class Local:
    """No processes at all."""

    width = depth = 1
    here = True
    farewell = "stopped; the same command goes on"

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> Ended:
        """Run the module's `main` to its end. It speaks to this terminal, not to the log."""
        name, *arguments = module
        ended = threading.Event()
        watcher = threading.Thread(target=_every, args=(WATCH_SECONDS, watch, ended), daemon=True)
        watcher.start()
        try:
            return Ended(importlib.import_module(name).main(arguments))
        finally:
            ended.set()
            watcher.join()


def _every(seconds: float, watch: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(seconds):
        watch()
