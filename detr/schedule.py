"""Learning-rate schedules as pure functions of the fraction of the run that is done.

official:     400 epochs at the peak, 100 at a tenth (facebookresearch/detr, main.py: StepLR, no warm-up)
abbreviated:  5 epochs linear warm-up, 35 flat, 60 cosine (the 100-epoch study)
"""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from detr.errors import InputError

if TYPE_CHECKING:
    from detr.config import ScheduleConfig


def lr_factor(schedule: "ScheduleConfig", progress: float) -> float:
    """Learning rate in units of the peak at `progress` in [0, 1], the fraction of the run's steps already done."""
    if schedule.shape == "constant":
        return 1.0
    if schedule.shape == "step":
        return 1.0 if progress < schedule.drop_at else schedule.drop_factor
    if progress < schedule.warmup:
        return schedule.floor + (1 - schedule.floor) * progress / schedule.warmup
    if progress < schedule.flat_until or schedule.flat_until == 1:
        return 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - schedule.flat_until) / (1 - schedule.flat_until)))
    return schedule.floor + (1 - schedule.floor) * cosine


class Horizon(NamedTuple):
    """A length of training: `amount` of `unit`, which is full, epochs, steps, samples or %."""

    amount: float
    unit: str

    def steps(self, num_images: int, effective_batch: int, full_epochs: float) -> int:
        """Optimiser steps of this length on `num_images` training images; at least 1."""
        epochs = {"full": full_epochs, "%": full_epochs * self.amount / 100, "epochs": self.amount}
        if self.unit == "steps":
            return max(1, round(self.amount))
        samples = self.amount if self.unit == "samples" else epochs[self.unit] * num_images
        return max(1, round(samples / effective_batch))


def parse_horizon(text: str) -> Horizon:
    """Read "full", "25 epochs", "600 steps", "36000 samples" or "5 %"; InputError on anything else."""
    if str(text).strip() == "full":
        return Horizon(1.0, "full")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(epochs?|steps?|samples?|%)\s*", str(text))
    if not match or not 0 < float(match[1]) < math.inf:
        raise InputError(
            f'horizon={text!r}: give a positive length with its unit, as in "600 steps", "25 epochs", '
            '"36000 samples", "5 %", or "full"'
        )
    unit = match[2] if match[2] == "%" else match[2].rstrip("s") + "s"
    return Horizon(float(match[1]), unit)
