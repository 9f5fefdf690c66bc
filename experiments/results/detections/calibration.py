"""Do scores say how often a detection is right?"""

import numpy as np
import pandas as pd

from experiments.results.detections.matching import Matched

BINS = 25  # as in Kuzucu et al., "On calibration of object detectors", ECCV 2024


def reliability(matched: Matched, threshold: float, bins: int = BINS) -> pd.DataFrame:
    """One row a bin of scores in 0..1: low, high, detections, score (their mean), precision (their share of hits).

    Only detections from the threshold on; the means of an empty bin are NaN. The last bin holds a score of 1 as well.
    """
    n = matched.detections.kept(threshold)
    counted = ~matched.ignored[:n]
    score, hit = matched.detections.score[:n][counted], matched.hit[:n][counted]
    place = (score * bins).astype(int).clip(0, bins - 1)
    number = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (score, hit))
    mean_score, precision = (np.divide(s, number, out=np.full(bins, np.nan), where=number > 0) for s in sums)
    edges = np.arange(bins + 1) / bins
    return pd.DataFrame(
        {"low": edges[:-1], "high": edges[1:], "detections": number, "score": mean_score, "precision": precision}
    )


def calibration_error(frame: pd.DataFrame) -> float:
    """D-ECE, the detection expected calibration error (Kueppers et al., CVPR workshops 2020) by the score alone.

    The mean over detections of |mean score - precision| of their bin; 0 is best. NaN without detections.
    """
    total = frame["detections"].sum()
    gap = (frame["score"] - frame["precision"]).abs()
    return float((gap * frame["detections"]).sum() / total) if total else np.nan
