"""In which order to look at images. Every function gives one number an image [N]; the largest come first."""

from collections.abc import Sequence

import numpy as np

from experiments.results.detections.matching import Matched
from experiments.results.detections.operating_points import counts_by_image


def disagreement(arms: Sequence[Matched], threshold: float) -> np.ndarray:
    """Objects that some of the arms find and others miss, plus the most minus the fewest false alarms of an arm."""
    truth = arms[0].detections.truth
    missed = np.stack([one.missed(threshold) for one in arms])  # (arms, G)
    differs = missed.any(axis=0) & ~missed.all(axis=0)
    alarms = np.stack([counts_by_image(one, threshold)["false_alarms"] for one in arms])  # (arms, N)
    return np.asarray(np.bincount(truth.image[differs], minlength=len(truth.image_ids)) + np.ptp(alarms, axis=0))


def misses(arms: Sequence[Matched], threshold: float) -> np.ndarray:
    """Missed objects, summed over the arms."""
    return np.asarray(np.stack([counts_by_image(one, threshold)["misses"] for one in arms]).sum(axis=0))


def false_alarms(arms: Sequence[Matched], threshold: float) -> np.ndarray:
    """False alarms, summed over the arms."""
    return np.asarray(np.stack([counts_by_image(one, threshold)["false_alarms"] for one in arms]).sum(axis=0))


def weighted_errors(arms: Sequence[Matched]) -> np.ndarray:
    """False alarms by their score, plus objects by 1 minus the score that finds them, summed over the arms.

    Needs no threshold. It is what the threshold would leave on average if it were drawn evenly from 0..1.
    """
    truth = arms[0].detections.truth
    total = np.zeros(len(truth.image_ids))
    for one in arms:
        found, counted = one.detections, ~one.truth_ignored
        score = np.where(one.false_alarm, found.score, 0).clip(0, 1)
        total += np.bincount(found.image, weights=score, minlength=len(total))
        unsure = 1 - np.nan_to_num(one.found_at).clip(0, 1)
        total += np.bincount(truth.image[counted], weights=unsure[counted], minlength=len(total))
    return total
