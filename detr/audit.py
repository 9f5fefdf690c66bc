"""Audit of published and own results: figures that cannot stand together, and evaluations that are not COCO's.

Plain numbers and lists; imports neither torch nor pycocotools.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detr.coco_names import COCO_NAMES

COCO_AREA_LIMITS = (1024.0, 9216.0)  # px^2 of the original image
MAX_DETECTIONS = 100  # an image

# AP as a sum over the size strata, fitted to 17 published rows on COCO with AP from 34 to 50: residuals reach 0.26
# points, of which rounding to 0.1 explains 0.1. Rows outside of the fit reach 0.7 (Conditional DETR-DC5-R101, whose
# README gives 45.0 with 26.1, 48.9, 62.8), so 1 point is allowed, four times that. The study is off by 6.2.
STRATA = {"APS": 0.332, "APM": 0.373, "APL": 0.299}
STRATA_TOLERANCE = 0.01
# On fewer images some classes have no large object, or no small one: they count in AP and not in that stratum.
STRATA_MIN_IMAGES = 2000
AUDITED = ("AP", "AP50", "AP75", *STRATA, "AR1", "AR10", "AR100")


class Finding(NamedTuple):
    """The outcome of one check."""

    name: str
    passed: bool | None  # None: the check does not apply
    reason: str


def audit_metrics(metrics: Mapping[str, float], other_strata: str = "") -> list[Finding]:
    """Whether the figures of one row can stand together.

    metrics:       AP, AP50, AP75, APS, APM, APL, and if known AR1, AR10, AR100; in 0..1, -1 for nothing to find
    other_strata:  why AP's relation to the size strata is not COCO's on this set; "" where it is
    """
    known = {key: metrics[key] for key in AUDITED if metrics.get(key, -1) != -1}
    odd = [f"{key}={value:g}" for key, value in known.items() if not 0 <= value <= 1]
    if odd:
        return [Finding("range", False, f"{', '.join(odd)}: AP and AR lie in 0..1")]
    return [
        Finding("range", True, "all figures lie in 0..1"),
        _check_strata(known, other_strata),
        _check_order("AP50 >= AP75", known, "AP75", "AP50", "a box that overlaps by 75 % overlaps by 50 % as well"),
        _check_order("AP <= AP50", known, "AP", "AP50", "AP is the mean over IoU 0.50 to 0.95, and falls with the IoU"),
        _check_bounds(known),
        _check_recall(known),
    ]


def _check_strata(metrics: Mapping[str, float], other_strata: str) -> Finding:
    name = "AP against APS, APM, APL"
    if other_strata:
        return Finding(name, None, f"does not apply: {other_strata}")
    missing = [key for key in ("AP", *STRATA) if key not in metrics]
    if missing:
        return Finding(name, None, f"does not apply: there is no {', '.join(missing)}")
    expected = sum(weight * metrics[key] for key, weight in STRATA.items())
    residual = metrics["AP"] - expected
    text = f"AP {100 * metrics['AP']:.1f}, by its strata {100 * expected:.1f}"
    if abs(residual) <= STRATA_TOLERANCE:
        return Finding(name, True, text)
    text += f": off by {100 * residual:+.1f} points, beyond {100 * STRATA_TOLERANCE:g}"
    return Finding(name, False, f"{text}; a likely cause is size strata taken in resized pixels or from box areas")


def _check_order(name: str, metrics: Mapping[str, float], low: str, high: str, why: str) -> Finding:
    if low not in metrics or high not in metrics:
        return Finding(name, None, f"does not apply: {low} or {high} is not known")
    text = f"{low} {100 * metrics[low]:.1f}, {high} {100 * metrics[high]:.1f}"
    holds = metrics[low] <= metrics[high] + 1e-9
    return Finding(name, holds, text if holds else f"{text}: {why}")


def _check_bounds(metrics: Mapping[str, float]) -> Finding:
    """Of the ten IoU thresholds one is 0.50 and five are up to 0.75; AP at each of them falls with the threshold."""
    name = "AP between bounds of AP50 and AP75"
    if not {"AP", "AP50", "AP75"} <= metrics.keys():
        return Finding(name, None, "does not apply: AP, AP50 or AP75 is not known")
    low = (metrics["AP50"] + 5 * metrics["AP75"]) / 10
    high = (5 * metrics["AP50"] + 5 * metrics["AP75"]) / 10
    slack = 0.001  # figures rounded to 0.1 points
    holds = low - slack <= metrics["AP"] <= high + slack
    text = f"AP {100 * metrics['AP']:.1f} between {100 * low:.1f} and {100 * high:.1f}"
    return Finding(name, holds, text if holds else f"{text} does not hold: AP is the mean over ten IoU thresholds")


def _check_recall(metrics: Mapping[str, float]) -> Finding:
    name = "maxDets 1, 10, 100"
    if not {"AP", "AR1", "AR10", "AR100"} <= metrics.keys():
        return Finding(name, None, "does not apply: AR1, AR10 or AR100 is not known")
    one, ten, hundred = (metrics[key] for key in ("AR1", "AR10", "AR100"))
    text = f"AR {100 * one:.1f}, {100 * ten:.1f}, {100 * hundred:.1f}"
    if not one <= ten + 1e-9 <= hundred + 2e-9:
        return Finding(name, False, f"{text}: recall cannot fall with more detections allowed")
    # The 101 recall points that AP samples reach the recall itself and at most one point beyond.
    if metrics["AP"] > hundred + 1 / 101:
        text += f" below AP {100 * metrics['AP']:.1f}"
        return Finding(name, False, f"{text}: they do not come from one evaluation")
    return Finding(name, True, text)


def audit_predictions(
    content: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
) -> list[Finding]:
    """Whether annotations and detections were evaluated as COCO does.

    content:      a COCO annotation file, parsed, every annotation with its area
    detections:   COCO results (image_id, category_id, bbox xywh in pixels, score)
    area_limits:  px^2 that part small | medium | large
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    per_image = Counter(d["image_id"] for d in detections)
    return [
        _check_areas(content["annotations"], area_limits),
        _check_pixels(sizes, detections),
        _check_counts(per_image),
        _check_coverage(sizes.keys(), per_image),
    ]


def _check_areas(annotations: Sequence[Mapping[str, Any]], area_limits: tuple[float, float]) -> Finding:
    name = "area convention"
    limits = f"; limits {area_limits[0]:g} and {area_limits[1]:g} px^2"
    boxes = [(a["area"], a["bbox"][2] * a["bbox"][3]) for a in annotations if not a.get("iscrowd")]
    ratios = [area / box for area, box in boxes if box > 0 and math.isfinite(area)]
    if not ratios:
        return Finding(name, None, "does not apply: there is no annotation with an area")
    equal = sum(abs(r - 1) < 1e-3 for r in ratios) / len(ratios)
    # A mask can touch pixels that its box rounds away, so single small objects may exceed their box.
    larger = sum(r > 1.1 for r in ratios) / len(ratios)
    if larger > 0.05:
        reason = f"{100 * larger:.0f} % of the annotation areas exceed their boxes: they are in other (resized?) pixels"
        return Finding(name, False, reason)
    if len(ratios) >= 100 and max(ratios) < 0.5:
        reason = f"no annotation area is more than {max(ratios):.2f} of its box: they are in other (resized?) pixels"
        return Finding(name, False, reason)
    if equal > 0.95:
        reason = "areas are those of the boxes: strata hold fewer small objects than COCO's, which take the masks'"
        return Finding(name, True, reason + limits)
    return Finding(name, True, "areas are those of masks, in original pixels" + limits)


def _check_pixels(sizes: Mapping[Any, tuple[int, int]], detections: Sequence[Mapping[str, Any]]) -> Finding:
    name = "detections in original pixels"
    placed = [(*sizes[d["image_id"]], *d["bbox"]) for d in detections if d["image_id"] in sizes]
    if not placed:
        return Finding(name, None, "does not apply: there is no detection")
    outside = sum(not (0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height) for width, height, x, y, w, h in placed)
    if outside > 0.01 * len(placed):
        share = 100 * outside / len(placed)
        return Finding(name, False, f"{share:.0f} % of the box centres are outside of their image: resized pixels?")
    return Finding(name, True, "the box centres are inside of their images")


def _check_counts(per_image: Mapping[Any, int]) -> Finding:
    name = "at most 100 detections an image"
    most = max(per_image.values(), default=0)
    if most > MAX_DETECTIONS:
        reason = f"an image has {most}; pycocotools' limit of 100 holds for each class, so AP counts more than 100 here"
        return Finding(name, False, reason)
    return Finding(name, True, f"at most {most}")


def _check_coverage(images: Any, per_image: Mapping[Any, int]) -> Finding:
    name = "images with predictions"
    missing = sum(image not in per_image for image in images)
    text = f"{len(images) - missing} of {len(images)}"
    if missing:
        return Finding(name, False, f"{text}: the objects of the others count as missed; DETR predicts on every image")
    return Finding(name, True, text)


def other_strata(content: Mapping[str, Any], area_limits: tuple[float, float] = COCO_AREA_LIMITS) -> str:
    """Why AP's relation to its strata is not that of COCO on this set; "" where it is."""
    if tuple(area_limits) != COCO_AREA_LIMITS:
        return f"the area limits are {area_limits[0]:g} and {area_limits[1]:g} px^2, not COCO's 1024 and 9216"
    if {category["id"] for category in content["categories"]} != COCO_NAMES.keys():
        return "the relation was fitted on COCO's 80 classes, and these are others"
    if len(content["images"]) < STRATA_MIN_IMAGES:
        return f"{len(content['images'])} images are too few (at least {STRATA_MIN_IMAGES})"
    return ""


def audit(
    content: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
) -> list[Finding]:
    """All checks of an evaluation at hand."""
    return audit_metrics(metrics, other_strata(content, area_limits)) + audit_predictions(
        content, detections, area_limits
    )
