"""How long a user waits before anything happens.

    .venv/bin/python -m benchmarks.start

`import detr`, and `experiments/run.py --help`, in processes of their own; files are in the system's cache after the
first time, which does not count.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.table import Entry, interleave, show
from experiments.schema.store import ROOT

COMMANDS = {
    "import detr": (["-c", "import detr"], 2.5),
    "experiments/run.py --help": (["experiments/run.py", "--help"], 2.0),
}


def entries(repetitions: int = 5) -> Iterator[Entry]:
    """Seconds of each command as shares of what they may take."""
    works = {
        name: partial(subprocess.run, [sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
        for name, (command, _) in COMMANDS.items()
    }
    for name, seconds in interleave(works, repetitions).items():
        limit = COMMANDS[name][1]
        low, median, high = (x / limit for x in statistics.quantiles(seconds, n=4))
        figures = {"seconds": statistics.median(seconds)}
        yield Entry(f"start, share of {limit:g} s", "the limit", name, median, (high - low) / 2, "below 1", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    show(entries(parser.parse_args().repetitions))
