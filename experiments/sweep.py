"""Search settings over short runs, and see how far the ranks carry to longer ones.

    python experiments/sweep.py sweep=lr_clip workers=2
    python experiments/sweep.py sweep=lr_clip storage=postgresql://me@host/sweeps data=coco data.root=/data

Running the same command again goes on where the study stands; running it at the same time, from another terminal or
with the same storage from another machine, joins it. Exit codes: 0 done, 1 a trial failed, 2 the input is wrong,
3 stopped, and the same command goes on.
"""

import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from experiments.command_line import parse_overrides, run_overrides  # of Hydra alone: --help must not wait

    overrides = parse_overrides(__doc__, "search", arguments)

    from experiments.sweeps.search import search

    return run_overrides(search, overrides)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python put experiments/ first, where no package is found
    sys.exit(main())
