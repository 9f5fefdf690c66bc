"""Learning-rate schedules as pure functions of the fraction of the run that is done.

official:     400 epochs at the peak, 100 at a tenth (facebookresearch/detr, main.py: StepLR, no warm-up)
abbreviated:  5 epochs linear warm-up, 35 flat, 60 cosine (the 100-epoch study)
"""

import math

from detr.config import ScheduleConfig


def lr_factor(schedule: ScheduleConfig, progress: float) -> float:
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
