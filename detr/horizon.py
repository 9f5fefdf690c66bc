"""Length of a training run, in any unit that a user may state."""

import math
import re
from typing import NamedTuple

from detr.errors import InputError


class Horizon(NamedTuple):
    """Length of training: `amount` of `unit`, which is full, epochs, steps, samples or %."""

    amount: float
    unit: str

    def steps(self, num_images: int, effective_batch: int, full_epochs: float) -> int:
        """Count the optimiser steps of this length on `num_images` training images; at least 1."""
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
