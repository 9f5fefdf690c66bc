"""What a benchmark reports, and how two pieces of work are compared."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of the table."""

    what: str  # is measured
    peer: str  # it is compared with
    work: str  # done by both
    ratio: float  # ours against the peer, larger is better; a share where `what` says share
    spread: float | None  # half the interquartile range of the ratios of interleaved repetitions; None if measured once
    aim: str
    figures: dict[str, float]  # raw medians, with units in the keys


def interleave(
    works: dict[str, Callable[[], object]], repetitions: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every repetition of each work. They take turns, so that what else the machine does falls on all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # warms up
    for i in range(repetitions):
        for name in list(works) if i % 2 else reversed(works):
            begin = clock()
            works[name]()
            seconds[name].append(clock() - begin)
    return seconds


def ratio_and_spread(ours: list[float], peer: list[float]) -> tuple[float, float]:
    """Median of peer / ours over the repetitions, and half the interquartile range."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return median, (high - low) / 2


def show(entries: Iterable[Entry]) -> None:
    """Print each as soon as it is measured."""
    for entry in entries:
        measured = f"{entry.ratio:.3g}" if entry.spread is None else f"{entry.ratio:.3g} +- {entry.spread:.2g}"
        print(f"{entry.what} ({entry.work}), against {entry.peer}: {measured}; {entry.figures}")
