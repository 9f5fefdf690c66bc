"""The audit of a data set in COCO format: all its faults in one pass, and the settings that would fit it better.

An error is what training refuses (`load_annotations`, `verify_images`, `prepare`), no more and no less. The cost is
linear in images, files and annotations; every image is read and decoded.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detr.config import RunConfig
from detr.doctor.census import Census, Objects, collect, count, sides_at, stride
from detr.doctor.image_files import check_files
from detr.doctor.records import SEVERITIES, Finding, Records, read_records, some
from detr.errors import InputError

HEADROOM = 1.25  # queries per object of the fullest image
TOLERATED_BELOW_CELL = 0.05  # share of the boxes
BORDER = 1e-3  # pixels over the border that are rounding


class Advice(NamedTuple):
    """A setting to paste, and why."""

    setting: str
    reason: str


@dataclass(frozen=True)
class Audit:
    """What the doctor found."""

    findings: list[Finding]  # errors first
    census: dict[str, Census]  # by split
    advice: list[Advice]
    records: dict[str, Records]
    objects: dict[str, Objects]

    @property
    def num_errors(self) -> int:
        """Kinds of faults that training refuses."""
        return sum(finding.severity == "error" for finding in self.findings)


def audit(splits: dict[str, tuple[Path, Path]], config: RunConfig, advance: Callable[[], None] = lambda: None) -> Audit:
    """Audit the splits, "train" and "val" or one of them, each an annotation file and its image folder.

    config:   the settings that the data is to be trained with
    advance:  called once an image, for a progress bar
    """
    for annotations, folder in splits.values():
        if not annotations.is_file():
            raise InputError(f"{annotations}: there is no such annotation file")
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of images")
    findings: list[Finding] = []
    records, objects, census, digests = {}, {}, {}, {}
    for split, (annotations, folder) in splits.items():
        records[split], faults = read_records(split, annotations, folder)
        objects[split] = collect(records[split])
        census[split] = count(records[split], objects[split], config)
        digests[split], file_faults = check_files(records[split], advance)
        findings += [*faults, *file_faults, *_check_boxes(split, objects[split])]
        findings += _check_census(records[split], objects[split], census[split], config)
    if len(splits) == 2:
        findings += _compare(records, digests)
    findings += _check_classes(records, config)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable
    return Audit(findings, census, advise(records, objects, census, config), records, objects)


def _check_boxes(split: str, objects: Objects) -> Iterator[Finding]:
    """Boxes and areas."""
    no_size = (objects.boxes[:, 2:] <= 0).any(1)
    over = objects.has_extent & (np.abs(objects.inside - objects.xyxy) > BORDER).any(1)
    box_areas = objects.boxes[:, 2:].clip(0).prod(1)
    seen: set[tuple] = set()
    double = np.zeros(len(objects.labels), dtype=bool)
    keys = zip(objects.images.tolist(), objects.categories.tolist(), map(tuple, objects.boxes.tolist()), strict=True)
    for row, key in enumerate(keys):
        double[row] = key[0] >= 0 and key in seen
        seen.add(key)
    missing = np.isnan(objects.areas)
    some_missing = "warning" if missing.any() and not missing.all() else "note"
    removed = "training leaves it out, evaluation still expects it: draw it anew or drop it"
    for severity, check, what, rows, remedy in (
        ("warning", "no-extent", "box without width or height", ~objects.has_extent & no_size, removed),
        ("warning", "outside", "box wholly outside of the image", ~objects.has_extent & ~no_size, removed),
        ("warning", "over-border", "box over the border of the image", over, "clipped in training: clip the file"),
        ("warning", "duplicate-box", "same image, class and box as an earlier one", double, "drop it"),
        ("warning", "area-too-large", "area larger than the box", ~no_size & (objects.areas > 1.01 * box_areas + 1),
         "areas are in px^2 of the original image; they decide between APS, APM and APL"),
        (some_missing, "no-area", "no area: width * height stands in for it", missing, "write the object's area"),
        ("note", "crowd", "crowd: left out of training, ignored in evaluation", objects.crowd, "none"),
    ):  # fmt: skip
        ids = (objects.labels[row] for row in np.flatnonzero(rows))
        yield from some(severity, split, check, what, "annotations", ids, remedy)


def _check_census(records: Records, objects: Objects, census: Census, config: RunConfig) -> Iterator[Finding]:
    """Classes, sizes and numbers of objects under the settings."""
    split, queries, cell = records.split, config.model.num_queries, stride(config.model)
    per_image = np.bincount(objects.images[objects.learned], minlength=len(records.images))
    absent = [name for name, n in census.classes.items() if n == 0]
    remedy = "its AP is undefined and left out of the mean" if split == "val" else "it cannot be learned"
    yield from some("warning", split, "absent-class", "class without an object", "classes", absent, remedy)
    empty = [records.images[row].label for row in np.flatnonzero(per_image == 0)]
    yield from some("note", split, "empty-image", "image without objects", "images", empty, "none: they are kept")
    full = [records.images[row].label for row in np.flatnonzero(per_image > queries)]
    what = f"more objects than model.num_queries={queries} can find, up to {census.most_objects}"
    remedy = "raise it, see settings: what no query is left for is lost"
    yield from some("warning", split, "too-few-queries", what, "images", full, remedy)
    if census.objects:
        strata = [n for n, c in zip(("small", "medium", "large"), census.strata, strict=True) if c == 0]
        what = f"no object of a size, by evaluation.area_limits={list(config.evaluation.area_limits)}"
        yield from some("warning", split, "empty-stratum", what, "sizes", strata, "its AP is undefined; see settings")
    if census.below_cell > TOLERATED_BELOW_CELL:
        small = sides_at(records, objects, config.data.image_size, config.data.max_size) < cell
        ids = [objects.labels[row] for row in np.flatnonzero(objects.learned)[small]]
        what = f"smaller than a feature cell of {cell} x {cell} px at data.image_size={config.data.image_size}"
        remedy = "larger data.image_size, or a backbone of finer stride"
        yield from some("warning", split, "below-cell", what, "annotations", ids, remedy)


def _compare(records: dict[str, Records], digests: dict[str, dict[bytes, str]]) -> Iterator[Finding]:
    """What train and val must share, and what they must not."""
    train, val = records["train"].names, records["val"].names
    if records["train"].categories and records["val"].categories:
        differing = sorted(id_ for id_ in train.keys() | val.keys() if train.get(id_) != val.get(id_))
        remedy = "write the same categories into both files"
        yield from some("error", "both", "categories", "differ between train and val", "categories", differing, remedy)
    shared = [name for digest, name in digests["val"].items() if digest in digests["train"]]
    remedy = "drop it from one: the AP of an image that was trained on tells nothing"
    yield from some("warning", "both", "shared-image", "validation image of train's content", "files", shared, remedy)


def _check_classes(records: dict[str, Records], config: RunConfig) -> Iterator[Finding]:
    """The class head is large enough."""
    names = next(iter(records.values())).names
    needed = max(names, default=-1) + 1 if config.data.labels == "raw" else len(names)
    if config.model.num_classes and config.model.num_classes < needed:
        what = f"model.num_classes={config.model.num_classes}, but the data needs {needed}"
        yield from some("error", "both", "num-classes", what, "settings", ["model.num_classes"], "set it to null")


def enough_queries(most_objects: int) -> int:
    """Queries for images of up to so many objects: a quarter more, in tens."""
    return max(10, math.ceil(HEADROOM * most_objects / 10) * 10)


def advise(
    records: dict[str, Records], objects: dict[str, Objects], census: dict[str, Census], config: RunConfig
) -> list[Advice]:
    """Settings that would fit the data better."""
    advice = []
    most = max(c.most_objects for c in census.values())
    if most > config.model.num_queries:
        reason = f"up to {most} objects in an image, and a quarter more"
        advice.append(Advice(f"model.num_queries={enough_queries(most)}", reason))
    if max(c.below_cell for c in census.values()) > TOLERATED_BELOW_CELL:
        advice += _larger_images(records, objects, config)
    empty = [split for split, c in census.items() if c.objects and 0 in c.strata]
    areas = np.concatenate([o.filled_areas[o.learned] for o in objects.values()])
    if empty:
        low, high = (float(f"{limit:.3g}") for limit in np.quantile(areas, (1 / 3, 2 / 3)))
        if 0 < low < high:
            reason = f"a third of the objects each; now a size is empty in {' and '.join(empty)}"
            advice.append(Advice(f"evaluation.area_limits=[{low:g},{high:g}]", reason))
    if any(finding.check == "num-classes" for finding in _check_classes(records, config)):
        advice.append(Advice("model.num_classes=null", "as many as the data has"))
    return advice


def _larger_images(records: dict[str, Records], objects: dict[str, Objects], config: RunConfig) -> Iterator[Advice]:
    """The image size at which 95 % of the boxes fill a feature cell, at most twice the present one; finer strides."""
    data, cell = config.data, stride(config.model)

    def sides(image_size: int, max_size: int) -> list[np.ndarray]:
        found = (sides_at(records[split], objects[split], image_size, max_size) for split in records)
        return [s for s in found if len(s)]

    present = sides(data.image_size, data.max_size)
    fifth = min(float(np.quantile(s, TOLERATED_BELOW_CELL, method="lower")) for s in present)
    factor = min(2.0, cell / max(fifth, 1e-6))
    size = math.ceil(data.image_size * factor / 8) * 8
    longer = math.ceil(data.max_size * size / data.image_size)
    rest = max((s < cell).mean() for s in sides(size, longer))
    cost = (size / data.image_size) ** 2
    reason = f"{rest:.0%} of the boxes are below a feature cell then; computing grows {cost:.1f}-fold"
    yield Advice(f"data.image_size={size} data.max_size={longer}", reason)
    if config.model.backbone == "small" and cell == 16:
        yield Advice("model.backbone_stride=8", "or this: feature cells of half the side")
    if config.model.backbone in ("resnet50", "resnet101") and not config.model.dilation:
        yield Advice("model.dilation=true", "or this: feature cells of half the side, twice the memory")
