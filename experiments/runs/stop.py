"""Signals that ask a run, and the command that runs it, to save and leave."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # schedulers warn by the last two


class Stop:
    """Request to stop, set by STOP_SIGNALS: the run saves and leaves after the present step. A second Ctrl-C interrupts
    at once; other signals may come twice, as schedulers send them to a job and to all its processes.
    """

    listening: ClassVar[list["Stop"]] = []  # in this process: a run's own inside that of its command

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listen(self) -> Iterator["Stop"]:
        """Handle the signals inside the block."""

        def handler(number: int, frame: object) -> None:
            if self.requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            for stop in self.listening:
                stop.requested = True

        before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
        self.listening.append(self)
        try:
            yield self
        finally:
            self.listening.remove(self)
            for number, old in before.items():
                signal.signal(number, old)
