"""Faults of single runs: diverged, under-trained, limited by data loading, audit failed, collapsed, metric missing.

Pure functions on the records of one run (one row a step, as `ablations.load_records` gives them); each returns the
reason, or "" if the condition does not hold or cannot be seen.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.schema.metrics import Metric

DIVERGED, UNDER_TRAINED, DATA_LIMITED = "diverged", "under-trained", "limited by data loading"
AUDIT_FAILED, COLLAPSED, NOT_LOGGED = "metric audit failed", "collapsed predictions", "metric not logged"

STILL_FALLING = 0.01  # relative fall of the validation loss over the last tenth of a run
WAITING = 0.2  # share of the step time
SPREAD = 0.01  # of boxes over images, in units of the image's sides
VARIANCE_KEY = "diagnostics/prediction_variance_boxes"
METRICS = ("train/loss", "val/loss", "train/wait_fraction", "train/data_time", "train/step_time", VARIANCE_KEY)  # used
VARIANCE = 0.01  # of boxes over images, in units of the variance of the set's objects
MIN_IMAGES = 5

RULES = {
    DIVERGED: "the loss became NaN or infinite, or the median training loss of the last tenth of the steps is above "
    "that of the first",
    UNDER_TRAINED: "the last validation loss is the lowest, and falls by more than 1 % in a tenth of the run",
    DATA_LIMITED: "more than 20 % of the step time went into waiting for data",
    AUDIT_FAILED: "AP, AP50, AP75 and the size strata cannot stand together",
    COLLAPSED: "a query's box varies over images with less than 1 % of the variance of the set's objects (without "
    "diagnostics: by less than 1 % of the image's sides): predictions do not depend on the image",
    NOT_LOGGED: "a metric by which the ablation is judged is not among those of the run, so there is no verdict by it",
}


def diverged(records: pd.DataFrame, error: str = "") -> str:
    """Non-finite loss, or a training loss that ends above its start."""
    if error.startswith("NonFiniteLoss"):
        return error.splitlines()[0]
    loss = _column(records, "train/loss")
    if not np.isfinite(loss).all():
        return f"the training loss is {loss[~np.isfinite(loss)][0]}"
    tenth = len(loss) // 10
    if tenth and (end := np.median(loss[-tenth:])) > (start := np.median(loss[:tenth])):
        return f"training loss {start:.3g} in the first tenth of the steps, {end:.3g} in the last"
    return ""


def under_trained(records: pd.DataFrame) -> str:
    """Validation loss still falling at the end, as a share of its value per tenth of the run."""
    if "val/loss" not in records:
        return ""
    points = records[["step", "val/loss"]].dropna()
    if len(points) < 2 or points["val/loss"].iloc[-1] > points["val/loss"].min():
        return ""
    tenths = 10 * (1 - points["step"] / points["step"].iloc[-1])
    earlier = points[tenths >= 1 - 1e-9]  # up to 90 % of the run
    if earlier.empty:
        return ""
    before, last, apart = earlier["val/loss"].iloc[-1], points["val/loss"].iloc[-1], tenths[earlier.index[-1]]
    fall = (before - last) / before / apart
    return f"validation loss still fell by {100 * fall:.1f} % in a tenth of the run" if fall > STILL_FALLING else ""


def data_limited(records: pd.DataFrame) -> str:
    """Share of the step time that went into waiting for data; the first step, which starts the loaders, left out."""
    if "train/wait_fraction" in records:
        waits = _column(records, "train/wait_fraction")[1:]
        share = waits.mean() if len(waits) else 0.0
    else:
        waited, took = (_column(records, f"train/{key}")[1:].sum() for key in ("data_time", "step_time"))
        share = waited / took if took else 0.0
    return f"{100 * share:.0f} % of the step time was spent waiting for data" if share > WAITING else ""


def collapsed(records: pd.DataFrame) -> str:
    """Whether predictions are the same in every image, by the last diagnostics; `collapsed_boxes` goes without them."""
    variance = _column(records, VARIANCE_KEY)
    if not len(variance) or variance[-1] >= VARIANCE:
        return ""
    return f"boxes vary from image to image with {100 * variance[-1]:.2g} % of the variance of the objects"


def collapsed_boxes(detections: Sequence[Mapping[str, Any]], sizes: Mapping[Any, tuple[int, int]]) -> str:
    """Whether boxes are the same in every image.

    detections:  COCO results; every image's in the order of the queries
    sizes:       image id -> (width, height)
    """
    by_image = defaultdict(list)
    for found in detections:
        if found["image_id"] in sizes:
            by_image[found["image_id"]].append(found)
    if len(by_image) < MIN_IMAGES or len({len(row) for row in by_image.values()}) > 1:
        return ""
    boxes = np.array([[d["bbox"] for d in row] for row in by_image.values()], dtype=float)  # (images, queries, xywh)
    sides = np.array([[*sizes[image], *sizes[image]] for image in by_image], dtype=float)
    spread = float(np.median((boxes / sides[:, None]).std(axis=0).mean(axis=-1)))
    return f"boxes vary by {100 * spread:.2f} % of the image's sides from image to image" if spread < SPREAD else ""


def not_logged(metrics: Iterable[Metric], logged: Collection[str]) -> str:
    """Whether the run lacks a metric by which the ablation is judged; names those that there are of its kind.

    logged:  names of the run's metrics that have a value
    """
    missing = [metric for metric in metrics if metric.column not in logged]
    if not missing:
        return ""
    kind = missing[0].column.partition("/")[0] + "/"
    there = ", ".join(sorted(key for key in logged if key.startswith(kind))) or "none of its kind"
    return f"there is no {', '.join(metric.key for metric in missing)}; there is {there}"


def summary(conditions: pd.DataFrame) -> pd.DataFrame:
    """One row a condition and arm: the number of runs that have it and the reason given by the first.

    conditions:  one row a run and condition: arm, seed, condition, reason
    """
    groups = conditions.groupby(["condition", "arm"], sort=False)
    return groups.agg(runs=("seed", "nunique"), reason=("reason", "first")).reset_index()


def _column(records: pd.DataFrame, key: str) -> np.ndarray:
    return records[key].dropna().to_numpy(float) if key in records else np.zeros(0)
