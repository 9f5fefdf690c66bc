"""Hits, false alarms and misses at a score threshold, and curves over all thresholds."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.results.bootstrap import RECALL_THRESHOLDS
from experiments.results.detections.matching import Matched

GRID = np.round(np.linspace(0, 1, 101), 2)  # thresholds of curves


@dataclass(frozen=True)
class Counts:
    """What a threshold leaves: over all classes and images together."""

    hits: int  # detections that find an object
    false_alarms: int  # detections that find none
    misses: int  # objects that no detection finds

    @property
    def precision(self) -> float:
        """Share of the detections that are hits; NaN without detections."""
        return self.hits / (self.hits + self.false_alarms) if self.hits + self.false_alarms else np.nan

    @property
    def recall(self) -> float:
        """Share of the objects that are found; NaN without objects."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else np.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 2 hits / (2 hits + false alarms + misses); NaN where all are 0."""
        total = 2 * self.hits + self.false_alarms + self.misses
        return 2 * self.hits / total if total else np.nan


def counts(matched: Matched, threshold: float) -> Counts:
    """The counts of detections with a score of at least the threshold."""
    n = matched.detections.kept(threshold)
    hits = int(np.count_nonzero(matched.hit[:n]))
    return Counts(
        hits=hits,
        false_alarms=int(np.count_nonzero(matched.false_alarm[:n])),
        misses=int(np.count_nonzero(~matched.truth_ignored)) - hits,
    )


def counts_by_image(matched: Matched, threshold: float) -> pd.DataFrame:
    """hits, false_alarms and misses of every image at the threshold, in the order of `GroundTruth.image_ids`."""
    n, found = matched.detections.kept(threshold), matched.detections
    size = len(found.truth.image_ids)
    return pd.DataFrame(
        {
            "hits": np.bincount(found.image[:n][matched.hit[:n]], minlength=size),
            "false_alarms": np.bincount(found.image[:n][matched.false_alarm[:n]], minlength=size),
            "misses": np.bincount(found.truth.image[matched.missed(threshold)], minlength=size),
        }
    )


def threshold_curve(matched: Matched, thresholds: np.ndarray = GRID) -> pd.DataFrame:
    """One row a threshold: threshold, hits, false_alarms, misses, precision, recall, f1."""
    rows = [(t, counts(matched, t)) for t in thresholds.tolist()]
    return pd.DataFrame(
        [(t, c.hits, c.false_alarms, c.misses, c.precision, c.recall, c.f1) for t, c in rows],
        columns=["threshold", "hits", "false_alarms", "misses", "precision", "recall", "f1"],
    )


def precision_recall(matched: Matched) -> np.ndarray:
    """Precision [101] at COCO's recall thresholds, the mean over classes with objects; its mean is their AP.

    All NaN where no class has objects.
    """
    found, truth = matched.detections, matched.detections.truth
    objects = np.bincount(truth.label[~matched.truth_ignored], minlength=len(truth.classes))
    counted = ~matched.ignored
    curves = [
        interpolated(matched.hit[counted & (found.label == k)], objects[k]) for k in np.flatnonzero(objects).tolist()
    ]
    return np.mean(curves, axis=0) if curves else np.full(len(RECALL_THRESHOLDS), np.nan)


def interpolated(hit: np.ndarray, objects: int) -> np.ndarray:
    """Precision [101] of one class as COCOeval interpolates it; hit [J] of its counted detections, best first."""
    tp = np.cumsum(hit)
    precision = np.append(np.maximum.accumulate((tp / np.arange(1, len(hit) + 1))[::-1])[::-1], 0)
    return precision[np.searchsorted(tp / objects, RECALL_THRESHOLDS)]
