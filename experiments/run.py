"""Train the arms of an ablation, and compare them.

    python experiments/run.py ablation=lr_clip
    python experiments/run.py ablation=lr_clip seeds=[0,1,2] horizon="600 steps" data=coco data.root=/data/mine

Running the same command again runs only what is missing. Exit codes: 0 done, 1 a run failed, 2 the input is wrong,
3 stopped, and the same command goes on.
"""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

# Python put experiments/ first on the path, where the packages are not found.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from experiments.definition.compose import describe  # Hydra alone: --help must not wait for torch

    parser = ArgumentParser(description=__doc__, epilog=describe(), formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="setting=value", help="choices and settings, see below")
    overrides = parser.parse_args(arguments).overrides

    from rich.console import Console

    from detr.distributed import LostProcess
    from detr.errors import InputError
    from experiments.runs.launch import launch
    from experiments.runs.ranks import lead
    from experiments.schema.store import StoreError

    try:
        width = None if sys.stdout.isatty() else 160  # logs are not folded at 80 columns
        console = Console(highlight=False, width=width)
        return lead(lambda: launch(overrides, console))
    except (InputError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except LostProcess as loss:
        print(f"stopped: {loss}; the same command goes on", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
