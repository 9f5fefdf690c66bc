"""Paired bootstrap of COCO AP over validation images: exact, and without evaluating again.

A bootstrap sample of images is a reweighting of them. Each arm's detections are therefore matched once (`match`), as
COCOeval does it, and a replicate only accumulates again (`weighted_ap`), an image that was drawn three times counting
three times.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from detr.audit import COCO_AREA_LIMITS
from experiments.results.detections import matching
from experiments.results.detections.matching import MAX_DETECTIONS
from experiments.schema.metrics import PRECISION

Annotations = Mapping[str, Any] | str | Path
Detections = list[dict[str, Any]] | str | Path  # a COCO results list, or the JSON file of one

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)  # COCOeval's, to the last bit: 0.01 * r is not always r / 100
CHUNK = 64  # replicates at once: a class's arrays stay in a core's cache


@dataclass(frozen=True)
class Curve:
    """The true positives of one class at one IoU threshold, best score first, ties in COCOeval's order.

    Precision and recall can rise only at these J detections, so the 101-point interpolation needs no others.
    """

    image: np.ndarray  # [J] int: index of the image that each true positive lies in
    counted: sparse.csr_array  # [J, N]: detections of image n that count, after true positive j - 1 up to and with j


@dataclass(frozen=True)
class MatchTable:
    """The detections of one arm matched to the ground truth: all that AP needs under any weights of the images.

    Of one class the table holds that class alone.
    """

    image_ids: tuple[int, ...]  # N, ascending
    classes: tuple[str, ...]  # K names, by ascending category id
    truth: sparse.csr_array  # [K, N]: ground truths that count: neither crowd nor outside the area range
    curves: tuple[tuple[Curve, ...], ...]  # [K][T]


def match(
    annotations: Annotations,
    detections: Detections,
    *,
    metric: str = "AP",
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
) -> MatchTable:
    """Match detections to ground truth as COCOeval does, at the IoU thresholds and the area range of `metric`.

    `metric` is AP, AP50, AP75, APS, APM, APL, or AP/<class>, the AP of one class. `area_limits` are the pixel areas
    that separate small from medium and medium from large objects. Annotations may lack `iscrowd` (0) and `area` (width
    times height). ValueError for an unknown metric, class or image, and for scores and boxes that are no numbers.
    """
    return tabulate(read_strictly(annotations, detections), metric, area_limits)


def tabulate(
    found: matching.Detections, metric: str = "AP", area_limits: tuple[float, float] = COCO_AREA_LIMITS
) -> MatchTable:
    """`match` for detections that were read already."""
    truth, (small, large) = found.truth, area_limits
    name, _, wanted = metric.partition("/")
    if name not in PRECISION or (wanted and (name != "AP" or wanted not in truth.classes)):
        known = ", ".join(truth.classes)
        raise ValueError(f"metric={metric!r}: choose one of {', '.join(PRECISION)}, or AP/ and one of {known}")
    classes = [k for k, known in enumerate(truth.classes) if wanted in ("", known)]
    area = {"APS": (0, small), "APM": (small, large), "APL": (large, 1e10)}.get(name, (0, 1e10))
    ious = [float(name[2:]) / 100] if name in ("AP50", "AP75") else IOU_THRESHOLDS.tolist()
    matched = [matching.match(found, area, iou) for iou in ious]
    counts = np.zeros((len(truth.classes), len(truth.image_ids)))
    counted = ~matched[0].truth_ignored
    np.add.at(counts, (truth.label[counted], truth.image[counted]), 1)
    by_class = [np.flatnonzero(found.label == k) for k in classes]
    return MatchTable(
        image_ids=tuple(truth.image_ids.tolist()),
        classes=tuple(truth.classes[k] for k in classes),
        truth=sparse.csr_array(counts[classes]),
        curves=tuple(
            tuple(_curve(found.image[d], ~one.ignored[d], one.hit[d], len(truth.image_ids)) for one in matched)
            for d in by_class
        ),
    )


def class_ap(table: MatchTable, weights: np.ndarray) -> np.ndarray:
    """AP per class [B, K] for B weightings of the images.

    weights: [B, N] non-negative integers, how often each image was drawn. NaN for a class that has no ground truth in
    the images drawn. The mean is over the table's IoU thresholds; weights of 1 give COCOeval's values.
    """
    # No count exceeds this, and float32 holds integers up to 2**24 exactly at half the memory traffic.
    most = MAX_DETECTIONS * weights.sum(axis=1).max(initial=0)
    drawn = np.ascontiguousarray(weights.T, dtype=np.float32 if most < 2**24 else np.float64)  # [N, B]
    truth = table.truth @ drawn.astype(np.float64)  # [K, B]
    ap = np.full(truth.shape, np.nan)
    for k in truth.any(axis=1).nonzero()[0]:
        at_threshold = [_interpolated(curve, drawn, truth[k]) for curve in table.curves[k]]
        ap[k] = np.where(truth[k] > 0, np.mean(at_threshold, axis=0), np.nan)
    return np.asarray(ap.T)


def weighted_ap(table: MatchTable, weights: np.ndarray) -> np.ndarray:
    """AP [B] for weights [B, N] as in `class_ap`: the mean over classes with ground truth, NaN if there is none."""
    by_class = class_ap(table, weights)
    defined = np.count_nonzero(~np.isnan(by_class), axis=1)
    mean = np.full(len(by_class), np.nan)
    np.divide(np.nansum(by_class, axis=1), defined, out=mean, where=defined > 0)
    return mean


def ap(
    annotations: Annotations,
    detections: Detections,
    *,
    metric: str = "AP",
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
) -> float:
    """COCOeval's value of the metric (0..1) by the path that the bootstrap takes; arguments as in `match`."""
    table = match(annotations, detections, metric=metric, area_limits=area_limits)
    return float(weighted_ap(table, np.ones((1, len(table.image_ids)), dtype=int))[0])


def image_weights(rng: np.random.Generator, num_images: int, replicates: int) -> np.ndarray:
    """How often each image is drawn, [B, N]: multinomial(N, 1/N) by counting draws, six times as fast as NumPy's."""
    draws = rng.integers(num_images, size=(replicates, num_images)) + num_images * np.arange(replicates)[:, None]
    return np.bincount(draws.ravel(), minlength=replicates * num_images).reshape(replicates, num_images)


def bootstrap_ap(
    annotations_json: Annotations,
    detections: Mapping[str, Detections | Sequence[Detections | MatchTable]],
    replicates: int,
    seed: int,
    *,
    metric: str = "AP",
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
    resample_seeds: bool = True,
) -> pd.DataFrame:
    """Bootstrap AP (0..1): one column an arm, one row a replicate, paired: a row weighs images alike for every arm.

    An arm's detections are a results list, a path, or what `match` made of them for this metric. A list of those is
    one entry a seed, for the hierarchical bootstrap: a replicate draws seeds inside the arm with replacement,
    independently of other arms, then images, and is the mean over the seeds drawn. Resampling S seeds shows only
    (S - 1) / S of their variance, so claims about seeds belong to `effects.contrast`; `resample_seeds=False`
    keeps every seed, leaving the images' variance.
    """
    if replicates < 1:
        raise ValueError(f"replicates={replicates}: at least 1 is needed")
    truth: Mapping[str, Any] = _read_json(annotations_json)
    # Streams of their own: an arm added at the end changes no other arm's values.
    images, *arms = np.random.SeedSequence(seed).spawn(1 + len(detections))
    columns = {}
    for (arm, given), stream in zip(detections.items(), arms, strict=True):
        tables = (
            one if isinstance(one, MatchTable) else match(truth, one, metric=metric, area_limits=area_limits)
            for one in _per_seed(given)
        )
        values = np.stack([_replicate(table, replicates, np.random.default_rng(images)) for table in tables])  # [S, B]
        shares = np.full(len(values), 1 / len(values))
        draws = np.random.default_rng(stream).multinomial(len(values), shares, size=replicates).T / len(values)
        columns[arm] = ((draws if resample_seeds else shares[:, None]) * values).sum(axis=0)
    return pd.DataFrame(columns)


def _replicate(table: MatchTable, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap AP [B] in chunks; the same generator state gives the same weights whatever the table holds."""
    sizes = [min(CHUNK, replicates - start) for start in range(0, replicates, CHUNK)]
    return np.concatenate([weighted_ap(table, image_weights(rng, len(table.image_ids), size)) for size in sizes])


def _interpolated(curve: Curve, drawn: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """101-point interpolated AP [B] of one class at one IoU threshold; drawn [N, B], truth [B] ground truths drawn.

    The precision at a recall threshold is the envelope at the first detection that reaches it. Summing over
    detections, each envelope value counts as often as it is the first to reach a threshold. A true positive of weight
    0 reaches none and lies below the one before it, so it changes nothing.
    """
    if not len(curve.image):
        return np.zeros(len(truth))
    tp = np.cumsum(drawn[curve.image], axis=0)  # (J, B)
    seen = np.cumsum(curve.counted @ drawn, axis=0)  # (J, B)
    precision = tp / np.maximum(seen, 1)  # seen is 0 only where tp is
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = tp / np.maximum(truth, 1.0)  # float64 as in COCOeval: at equality the last bit decides
    nearest = np.rint(100 * recall).astype(np.intp)
    reached = nearest + (RECALL_THRESHOLDS[nearest] <= recall)  # number of thresholds at or below the recall
    return np.asarray((envelope * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALL_THRESHOLDS))


def _curve(image: np.ndarray, counted: np.ndarray, hit: np.ndarray, num_images: int) -> Curve:
    """One curve from the sorted detections: image index, counted and true positive, each [D]."""
    ends = np.concatenate([[0], np.cumsum(counted)[hit]])  # (J + 1)
    columns = image[counted][: ends[-1]]
    steps = sparse.csr_array((np.ones(len(columns), np.float32), columns, ends), shape=(len(ends) - 1, num_images))
    return Curve(image[hit], steps)


def read_strictly(annotations: Annotations, detections: Detections) -> matching.Detections:
    """Read detections; ValueError if some could not count, so that no AP rests on a part of them unnoticed."""
    truth = matching.read_truth(_read_json(annotations))
    rows: list[dict[str, Any]] = _read_json(detections)
    found = matching.read_detections(truth, rows)
    known = set(truth.image_ids.tolist())
    for row in rows:
        if row["image_id"] not in known:
            raise ValueError(f"a detection is for image {row['image_id']}, which the annotations do not have")
    faults = {reason: number for reason, number in found.left_out.items() if reason != matching.UNKNOWN_CLASS}
    if faults:
        raise ValueError(", ".join(f"{number} detections {reason}" for reason, number in faults.items()))
    return found


def _read_json(given: Any) -> Any:
    """The content of a file, or what was read already."""
    return json.loads(Path(given).read_text()) if isinstance(given, str | Path) else given


def _per_seed(given: Any) -> Sequence[Any]:
    """The detections of each seed; a path or a list of dicts is those of the only one, an empty list finds nothing."""
    one_seed = isinstance(given, str | Path) or not given or isinstance(given[0], dict)
    return [given] if one_seed else given
