"""Whether the figures of one evaluation can stand together. `detr.audit` goes further, with annotations and detections
at hand; the read side may not import it, so the arithmetic of a row stands here as well."""

from collections.abc import Mapping

# AP as a sum over the size strata: fitted to 17 published rows on COCO, largest residual 0.26 points (see detr.audit)
STRATA = {"APS": 0.332, "APM": 0.373, "APL": 0.299}
STRATA_TOLERANCE = 0.01
ROUNDING = 0.001  # figures may come rounded to 0.1 points
COCO_CLASSES, COCO_AREA_LIMITS, STRATA_MIN_IMAGES = 80, (1024, 9216), 2000


def audit_row(metrics: Mapping[str, float], is_coco: bool = False) -> list[str]:
    """What is impossible or implausible about AP, AP50, AP75, APS, APM, APL in 0..1; empty for a sound row.

    Figures may be missing. The relation to the strata holds on COCO's classes and size limits only.
    """
    known = {key: value for key, value in metrics.items() if value == value and value != -1}  # -1: nothing to find
    odd = [f"{key} is {value:g}, outside 0..1" for key, value in known.items() if not 0 <= value <= 1]
    if odd:
        return odd
    faults = []
    if {"AP50", "AP75"} <= known.keys() and known["AP75"] > known["AP50"] + ROUNDING:
        faults.append(f"AP75 {_shown(known['AP75'])} exceeds AP50 {_shown(known['AP50'])}")
    if {"AP", "AP50"} <= known.keys() and known["AP"] > known["AP50"] + ROUNDING:
        faults.append(f"AP {_shown(known['AP'])} exceeds AP50 {_shown(known['AP50'])}")
    if {"AP", "AP50", "AP75"} <= known.keys() and not faults:
        # Of the ten IoU thresholds one is 0.50 and five are up to 0.75; AP falls with the threshold.
        low, high = (known["AP50"] + 5 * known["AP75"]) / 10, (5 * known["AP50"] + 5 * known["AP75"]) / 10
        if not low - ROUNDING <= known["AP"] <= high + ROUNDING:
            faults.append(
                f"AP {_shown(known['AP'])} is not between {_shown(low)} and {_shown(high)}, as AP50 and AP75 ask"
            )
    if is_coco and {"AP", *STRATA} <= known.keys():
        expected = sum(weight * known[key] for key, weight in STRATA.items())
        if abs(known["AP"] - expected) > STRATA_TOLERANCE:
            faults.append(f"AP {_shown(known['AP'])}, but its size strata give {_shown(expected)}")
    return faults


def _shown(value: float) -> str:
    return f"{100 * value:.1f}"
