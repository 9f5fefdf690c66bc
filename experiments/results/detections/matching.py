"""Detections of one run matched to the ground truth, as COCOeval matches them, for every score threshold at once.

Matching is greedy, best score first: what a detection finds depends on those above it alone. So leaving out detections
below a threshold changes no match above it, and a new threshold is a filter, not a new matching.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

IOU = 0.5  # from here on a detection lies on an object
BACKGROUND = 0.1  # up to here it lies on none (Bolya et al. 2020)
MAX_DETECTIONS = 100  # per image and class, as in the COCO metrics
UNKNOWN_CLASS = "of classes that the annotations do not have"  # COCOeval passes over them
LIMIT = 1e9  # pixels; no image has a box beyond


@dataclass(frozen=True)
class GroundTruth:
    """The validation set: N images by ascending id, K classes by ascending id, G objects by image."""

    image_ids: np.ndarray  # [N] int
    files: tuple[str, ...]  # N names
    sizes: np.ndarray  # [N, 2] int: width and height in pixels; 0 where unknown
    classes: tuple[str, ...]  # K names
    category_ids: np.ndarray  # [K] int
    image: np.ndarray  # [G] int: index of the image
    label: np.ndarray  # [G] int: index of the class
    box: np.ndarray  # [G, 4]: x, y, width, height in pixels
    area: np.ndarray  # [G]: square pixels, of the object where that was annotated
    crowd: np.ndarray  # [G] bool

    def slice(self, n: int) -> slice:
        """The objects of image n."""
        return slice(*np.searchsorted(self.image, [n, n + 1]))


@dataclass(frozen=True)
class Detections:
    """D detections of one run, best score first; ties in the order of the images, then of the file."""

    truth: GroundTruth
    image: np.ndarray  # [D] int: index of the image
    label: np.ndarray  # [D] int: index of the class
    score: np.ndarray  # [D]
    box: np.ndarray  # [D, 4]: x, y, width, height in pixels
    # pairs of a detection and an object of its image that overlap by at least BACKGROUND
    pair_detection: np.ndarray  # [P] int
    pair_object: np.ndarray  # [P] int
    pair_iou: np.ndarray  # [P]; over the detection's own area where the object is a crowd
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> number of records that cannot be used

    @cached_property
    def by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the detections sorted by image, and [N + 1] where each image begins in them."""
        order = np.argsort(self.image, kind="stable")
        return order, np.searchsorted(self.image[order], np.arange(len(self.truth.image_ids) + 1))

    def of_image(self, n: int) -> np.ndarray:
        """Indices of the detections of image n, best first."""
        order, starts = self.by_image
        return order[starts[n] : starts[n + 1]]

    def kept(self, threshold: float) -> int:
        """How many detections have a score of at least the threshold; they are the first ones."""
        return int(np.searchsorted(-self.score, -threshold, side="right"))


@dataclass(frozen=True)
class Matched:
    """Which object each detection finds, without any threshold."""

    detections: Detections
    match: np.ndarray  # [D] int: index of the object, -1 for none
    ignored: np.ndarray  # [D] bool: neither hit nor false alarm
    truth_ignored: np.ndarray  # [G] bool: neither found nor missed

    @cached_property
    def hit(self) -> np.ndarray:
        """[D] bool: finds an object that counts."""
        return np.asarray((self.match >= 0) & ~self.ignored)

    @cached_property
    def false_alarm(self) -> np.ndarray:
        """[D] bool: finds nothing, or what a better detection has found."""
        return np.asarray((self.match < 0) & ~self.ignored)

    @cached_property
    def found_at(self) -> np.ndarray:
        """[G] score of the detection that finds the object, NaN for none; it is missed at all higher thresholds."""
        score = np.full(len(self.truth_ignored), np.nan)
        score[self.match[self.hit]] = self.detections.score[self.hit]
        return score

    def missed(self, threshold: float) -> np.ndarray:
        """[G] bool: objects that count and are not found by a detection with at least this score."""
        return ~self.truth_ignored & ~(self.found_at >= threshold)

    def restricted(self, labels: Collection[int]) -> "Matched":
        """The same with all other classes ignored. Exact, since matches never join two classes."""
        truth, chosen = self.detections.truth, list(labels)
        return replace(
            self,
            ignored=self.ignored | ~np.isin(self.detections.label, chosen),
            truth_ignored=self.truth_ignored | ~np.isin(truth.label, chosen),
        )


def match(detections: Detections, area: tuple[float, float] = (0, np.inf), iou: float = IOU) -> Matched:
    """Match as COCOeval does at one IoU, at least BACKGROUND, and one area range.

    Ignored are crowds, objects outside of the range, what matches them, what matches nothing and lies outside of the
    range, and what comes after the 100 best of a class in an image.
    """
    truth, (low, high) = detections.truth, area
    truth_ignored = truth.crowd | (truth.area < low) | (truth.area > high)
    size = detections.box[:, 2] * detections.box[:, 3]
    beyond = _ranks(detections.image * len(truth.classes) + detections.label) >= MAX_DETECTIONS
    d, g, overlap = detections.pair_detection, detections.pair_object, detections.pair_iou
    usable = (detections.label[d] == truth.label[g]) & (overlap >= min(iou, 1 - 1e-10)) & ~beyond[d]
    d, g, overlap = d[usable], g[usable], overlap[usable]
    # what a detection prefers: objects that count, then the larger overlap, then the later of equal ones
    order = np.lexsort((-g, -overlap, truth_ignored[g], d))
    found, taken, reusable = [-1] * len(detections.score), set(), truth.crowd.tolist()
    for one, wanted in zip(d[order].tolist(), g[order].tolist(), strict=True):
        if found[one] < 0 and (wanted not in taken or reusable[wanted]):
            found[one] = wanted
            taken.add(wanted)
    match = np.array(found, dtype=np.intp)
    outside = (match < 0) & ((size < low) | (size > high))
    into_ignored = (match >= 0) & np.append(truth_ignored, False)[match]
    return Matched(detections, match, outside | into_ignored | beyond, truth_ignored)


def load(path: Path) -> Any:
    """Content of a JSON file; ValueError where it is none, for example half-written."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged or half-written ({error})") from None


def read_truth(content: Mapping[str, Any]) -> GroundTruth:
    """The content of a COCO annotation file. ValueError where it is damaged."""
    try:
        images = sorted(content["images"], key=lambda image: image["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        index = {image["id"]: n for n, image in enumerate(images)}
        label = {category["id"]: k for k, category in enumerate(categories)}
        rows = sorted(content["annotations"], key=lambda one: index[one["image_id"]])
        box = np.array([one["bbox"] for one in rows], dtype=np.float64).reshape(len(rows), 4)
        sizes = [(image.get("width", 0), image.get("height", 0)) for image in images]
        return GroundTruth(
            image_ids=np.array([image["id"] for image in images], dtype=np.int64),
            files=tuple(str(image.get("file_name", image["id"])) for image in images),
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            classes=tuple(str(category["name"]) for category in categories),
            category_ids=np.array([category["id"] for category in categories], dtype=np.int64),
            image=np.array([index[one["image_id"]] for one in rows], dtype=np.intp),
            label=np.array([label[one["category_id"]] for one in rows], dtype=np.intp),
            box=box,
            area=np.array([one.get("area", one["bbox"][2] * one["bbox"][3]) for one in rows], dtype=np.float64),
            crowd=np.array([one.get("iscrowd", 0) for one in rows], dtype=bool),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"the stored annotations are damaged ({type(error).__name__}: {str(error)[:200]})") from None


def read_detections(truth: GroundTruth, rows: Sequence[Mapping[str, Any]]) -> Detections:
    """A COCO results list. Records that cannot be used are counted in `left_out`; ValueError where it is none."""
    try:
        image_id = np.array([row["image_id"] for row in rows], dtype=np.int64)
        category = np.array([row["category_id"] for row in rows], dtype=np.int64)
        score = np.array([row["score"] for row in rows], dtype=np.float64)
        box = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(len(rows), 4)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"the stored predictions are damaged ({type(error).__name__}: {str(error)[:200]})") from None
    image, image_known = _index(truth.image_ids, image_id)
    label, label_known = _index(truth.category_ids, category)
    faults = {
        "of images that the annotations do not have": ~image_known,
        UNKNOWN_CLASS: image_known & ~label_known,
        "whose score is not a number": image_known & label_known & ~np.isfinite(score),
    }
    bad_box = ~(np.abs(box) < LIMIT).all(axis=1) | (box[:, 2:] < 0).any(axis=1)  # NaN compares False
    faults["whose box is impossible"] = bad_box & ~np.any(list(faults.values()), axis=0)
    usable = np.flatnonzero(~np.any(list(faults.values()), axis=0))
    order = usable[np.lexsort((usable, image[usable], -score[usable]))]
    image, label, score, box = image[order], label[order], score[order], box[order]
    return Detections(
        truth, image, label, score, box, *_overlaps(truth, image, box),
        left_out={reason: int(bad.sum()) for reason, bad in faults.items() if bad.any()},
    )  # fmt: skip


def _overlaps(truth: GroundTruth, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, object and IoU of all pairs in one image that overlap by at least BACKGROUND; IoU is pycocotools'."""
    order = np.argsort(image, kind="stable")
    images = np.arange(len(truth.image_ids))
    found = zip(np.searchsorted(image[order], images), np.searchsorted(image[order], images, "right"), strict=True)
    objects = zip(np.searchsorted(truth.image, images), np.searchsorted(truth.image, images, "right"), strict=True)
    parts = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
    crowd = truth.crowd.astype(np.uint8)
    for (d0, d1), (g0, g1) in zip(found, objects, strict=True):
        if d0 < d1 and g0 < g1:
            overlap = mask.iou(box[order[d0:d1]], truth.box[g0:g1], crowd[g0:g1])  # (detections, objects)
            d, g = np.nonzero(overlap >= BACKGROUND)
            parts.append((order[d0 + d], g0 + g, overlap[d, g]))
    detections, annotations, overlaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detections, annotations, overlaps


def _index(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of every wanted id in the sorted known ones, and whether it is there."""
    if not len(known):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), bool)
    place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return place, known[place] == wanted


def _ranks(group: np.ndarray) -> np.ndarray:
    """How many earlier entries have the same value."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    first = np.searchsorted(ordered, ordered)
    ranks = np.empty(len(group), dtype=np.intp)
    ranks[order] = np.arange(len(group)) - first
    return ranks
