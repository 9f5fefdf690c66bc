"""Local launcher: runs one after the other in this very process, for a debugger and below torchrun."""

import importlib
import threading
from collections.abc import Callable
from pathlib import Path

WATCH_SECONDS = 0.3


class Ended:
    """Process that has ended already."""

    def __init__(self, code: int) -> None:
        self.returncode = code

    def poll(self) -> int:
        """Exit code."""
        return self.returncode

    def terminate(self) -> None:
        """Do nothing: it has ended."""


class Local:
    """Launcher without processes of its own."""

    width = depth = 1
    here = True
    farewell = "stopped; the same command goes on"

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> Ended:
        """Run the module's `main` to its end, with its output on this terminal."""
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
