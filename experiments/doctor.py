"""The command detr-doctor with the presets of conf/: the core audits, and knows no configuration framework.

detr-doctor --shapes
"""

import sys
from collections.abc import Sequence
from functools import partial

from detr.config import RunConfig
from detr.doctor.command import Presets, run
from experiments.definition.compose import compose, run_config

MODELS = {
    "small": [
        "model=small",
        "data=coco",
        "data.image_size=128",
        "data.max_size=213",
        "optim.lr=1e-3",
    ],  # learns quickly
    "detr_r50": ["model=detr_r50", "data=coco"],
}


def settings(overrides: Sequence[str]) -> RunConfig:
    """The settings of one run that these choices of conf/ give."""
    return run_config(compose(list(overrides)), seed=0)


PRESETS = Presets(
    models={name: partial(settings, overrides) for name, overrides in MODELS.items()},
    shapes=partial(settings, ["model=small", "data=shapes"]),
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run(argv, PRESETS)


if __name__ == "__main__":
    sys.exit(main())
