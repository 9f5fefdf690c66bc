"""Train the arms of an ablation, and compare them.

    python experiments/run.py ablation=lr_clip
    python experiments/run.py ablation=lr_clip seeds=[0,1,2] horizon="600 steps" data=coco data.root=/data/mine

Running the same command again runs only what is missing. Exit codes: 0 done, 1 a run failed, 2 the input is wrong,
3 stopped, and the same command goes on.
"""

import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from experiments.command_line import parse_overrides, run_overrides  # of Hydra alone: --help must not wait

    overrides = parse_overrides(__doc__, "config", arguments)

    from experiments.runs.launch import launch

    return run_overrides(launch, overrides)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python put experiments/ first, where no package is found
    sys.exit(main())
