"""What a page of thresholds and errors needs of one run, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from experiments.results.detections.calibration import calibration_error, reliability
from experiments.results.detections.error_types import SPECIAL, TYPES, Errors, classify, costs
from experiments.results.detections.matching import Matched
from experiments.results.detections.operating_points import counts, precision_recall, threshold_curve


@dataclass(frozen=True)
class RunSummary:
    """One run's detections in figures; what does not depend on the threshold is kept."""

    matched: Matched

    @cached_property
    def precision(self) -> np.ndarray:
        """[101] at COCO's recall thresholds; the mean is AP50."""
        return precision_recall(self.matched)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Counts, precision, recall and F1 at thresholds of 0, 0.01 .. 1."""
        return threshold_curve(self.matched)

    @cached_property
    def errors(self) -> Errors:
        """The type of every error."""
        return classify(self.matched)

    @cached_property
    def costs(self) -> pd.Series:
        """dAP50 (0..1) of every error type."""
        return costs(self.errors)


Summaries = Mapping[str, Sequence[RunSummary]]  # arm -> its runs


def at_threshold(summaries: Summaries, threshold: float) -> pd.DataFrame:
    """One row an arm: arm, N, and of AP50, precision, recall, F1, best F1, its threshold and D-ECE the mean over its
    runs and, with the suffix "_sd", the standard deviation (NaN below two).
    """
    rows = []
    for arm, runs in summaries.items():
        found = [counts(run.matched, threshold) for run in runs]
        best = [run.curve.iloc[int(run.curve["f1"].fillna(0).to_numpy().argmax())] for run in runs]
        values = {
            "AP50": [run.precision.mean() for run in runs],
            "precision": [one.precision for one in found],
            "recall": [one.recall for one in found],
            "F1": [one.f1 for one in found],
            "best F1": [row["f1"] for row in best],
            "best threshold": [row["threshold"] for row in best],
            "D-ECE": [calibration_error(reliability(run.matched, threshold)) for run in runs],
        }
        columns = {name: pd.Series(x, dtype=float) for name, x in values.items()}
        means = {name: x.mean() for name, x in columns.items()}
        rows.append({"arm": arm, "N": len(runs)} | means | {f"{name}_sd": x.std() for name, x in columns.items()})
    return pd.DataFrame(rows)


def error_table(summaries: Summaries, threshold: float) -> pd.DataFrame:
    """One row an arm and error type: arm, type, dAP50 (0..1), and number (per run, from the threshold on; NaN for the
    special types): means over the arm's runs.
    """
    rows = []
    for arm, runs in summaries.items():
        cost = pd.DataFrame([run.costs for run in runs]).mean()
        number = pd.DataFrame([run.errors.counts(threshold) for run in runs]).mean()
        rows += [(arm, name, cost[name], number.get(name, np.nan)) for name in (*TYPES, *SPECIAL)]
    return pd.DataFrame(rows, columns=["arm", "type", "dAP50", "number"])


def pooled_reliability(runs: Sequence[RunSummary], threshold: float) -> pd.DataFrame:
    """`calibration.reliability` of all detections of the runs together."""
    frames = [reliability(run.matched, threshold) for run in runs]
    number = pd.concat([frame["detections"] for frame in frames], axis=1).sum(axis=1)
    pooled = frames[0][["low", "high"]].assign(detections=number)
    for name in ("score", "precision"):
        total = pd.concat([frame[name] * frame["detections"] for frame in frames], axis=1).sum(axis=1)
        pooled[name] = total / number.where(number > 0)
    return pooled
