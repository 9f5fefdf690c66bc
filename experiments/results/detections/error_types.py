"""Why detections are wrong and what it costs: the error types of TIDE (Bolya et al., ECCV 2020, arXiv 2008.08115).

Every false alarm has one type, and objects that no other type explains are missed. The cost of a type is the rise of
AP50 when an oracle mends that type alone; costs do not add up, since a mended error can hide another.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from experiments.results.detections.matching import BACKGROUND, IOU, Matched
from experiments.results.detections.operating_points import interpolated

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, ON_BACKGROUND, MISSED = TYPES = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
FALSE_POSITIVES, FALSE_NEGATIVES = SPECIAL = ("false positives", "false negatives")


@dataclass(frozen=True)
class Errors:
    """The type of every false alarm of `matched`, which is at IoU 0.5 and without area range."""

    matched: Matched
    kind: np.ndarray  # [D] int: place in TYPES; -1 where the detection is no false alarm
    target: np.ndarray  # [D] int: the object that a classification or localisation error is about, else -1

    @cached_property
    def explained_at(self) -> np.ndarray:
        """[G] best score of the classification and localisation errors about each object, NaN for none."""
        score = np.full(len(self.matched.truth_ignored), np.nan)
        about = self.target >= 0
        np.fmax.at(score, self.target[about], self.matched.detections.score[about])
        return score

    def missed(self, threshold: float) -> np.ndarray:
        """[G] bool: objects neither found nor explained by an error with at least this score."""
        return self.matched.missed(threshold) & ~(self.explained_at >= threshold)

    def counts(self, threshold: float) -> pd.Series:
        """Number of errors of each type among the detections with a score of at least the threshold."""
        kinds = self.kind[: self.matched.detections.kept(threshold)]
        found = np.bincount(kinds[kinds >= 0], minlength=len(TYPES))
        found[TYPES.index(MISSED)] = np.count_nonzero(self.missed(threshold))
        return pd.Series(found, index=list(TYPES), name="errors")


def classify(matched: Matched) -> Errors:
    """The type of each false alarm, tested in the order of TIDE's own code.

    IoU is with the objects of the image that are no crowd:
    localisation     the best IoU with an object of its class is between BACKGROUND and IOU
    classification   the best IoU with an object of another class is at least IOU
    duplicate        the best IoU with an object of its class is at least IOU; a better detection has found it
    background       no IoU above BACKGROUND
    both             the rest: not well enough on an object of another class

    No type depends on the detections with lower scores, so a threshold keeps the types of those above it.
    """
    found, truth = matched.detections, matched.detections.truth
    real = ~truth.crowd[found.pair_object]
    d, g, iou = found.pair_detection[real], found.pair_object[real], found.pair_iou[real]
    same = found.label[d] == truth.label[g]
    best_same, same_object = _best(d[same], g[same], iou[same], len(found.score))
    best_other, other_object = _best(d[~same], g[~same], iou[~same], len(found.score))
    alarm = matched.false_alarm
    tests = {
        LOCALISATION: (best_same >= BACKGROUND) & (best_same <= IOU),
        CLASSIFICATION: best_other >= IOU,
        DUPLICATE: best_same >= IOU,
        ON_BACKGROUND: np.maximum(best_same, best_other) <= BACKGROUND,
    }
    kind = np.select(list(tests.values()), [TYPES.index(name) for name in tests], TYPES.index(BOTH))
    kind = np.where(alarm, kind, -1)
    target = np.full(len(kind), -1, dtype=np.intp)
    for name, wanted in ((LOCALISATION, same_object), (CLASSIFICATION, other_object)):
        target = np.where(kind == TYPES.index(name), wanted, target)
    return Errors(matched, kind, target)


def costs(errors: Errors) -> pd.Series:
    """Rise of AP50 (0..1) when all errors of one type are mended, for TYPES and SPECIAL; all detections take part.

    classification, localisation   the best error about each unfound object becomes a hit of its class, the others go
    both, duplicate, background    the detections go
    missed                         the objects go
    false positives                all hits come before all false alarms
    false negatives                the objects that are not found go

    The rise of a main type is at least 0, as in TIDE: other recall points can make AP50 fall by a trifle.
    """
    matched = errors.matched
    label, hit, alarm = matched.detections.label, matched.hit, matched.false_alarm
    counted, unfound = ~matched.truth_ignored, matched.missed(-np.inf)
    before = _ap50(errors, label, hit, alarm, counted)
    rise = {name: max(_ap50(errors, *_mended(errors, name)) - before, 0.0) for name in TYPES}
    hits_first = np.argsort(~hit, kind="stable")
    rise[FALSE_POSITIVES] = _ap50(errors, label[hits_first], hit[hits_first], alarm[hits_first], counted) - before
    rise[FALSE_NEGATIVES] = _ap50(errors, label, hit, alarm, counted & ~unfound) - before
    return pd.Series(rise, name="dAP50")


def _mended(errors: Errors, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label, hit and false alarm of the detections and which objects count, with the errors of one type mended."""
    matched, wrong = errors.matched, errors.kind == TYPES.index(name)
    label, hit, alarm = matched.detections.label.copy(), matched.hit.copy(), matched.false_alarm & ~wrong
    counted = ~matched.truth_ignored
    if name == MISSED:
        counted = counted & ~errors.missed(-np.inf)
    if name in (CLASSIFICATION, LOCALISATION):
        about = np.flatnonzero(errors.target >= 0)
        best = about[np.unique(errors.target[about], return_index=True)[1]]  # of each object, the highest score
        best = best[wrong[best] & matched.missed(-np.inf)[errors.target[best]]]
        hit[best] = True
        label[best] = matched.detections.truth.label[errors.target[best]]
    return label, hit, alarm, counted


def _ap50(errors: Errors, label: np.ndarray, hit: np.ndarray, alarm: np.ndarray, counted: np.ndarray) -> float:
    """AP50 of detections [D], best first, and objects [G] that count; the mean over the classes that have objects.

    As in TIDE, a class whose objects all went counts 0 while false alarms are left, and is left out otherwise.
    """
    truth, unmended = errors.matched.detections.truth, ~errors.matched.truth_ignored
    objects = np.bincount(truth.label[counted], minlength=len(truth.classes))
    values = []
    for k in np.unique(truth.label[unmended]).tolist():
        ranked = hit[(label == k) & (hit | alarm)]
        if objects[k]:
            values.append(interpolated(ranked, objects[k]).mean())
        elif len(ranked):
            values.append(0.0)
    return float(np.mean(values)) if values else 0.0


def _best(d: np.ndarray, g: np.ndarray, iou: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection's pairs the largest IoU [size], 0 for none, and the first object that has it, -1 for none."""
    order = np.lexsort((-g, iou, d))  # the best comes last, and what is assigned last stays
    value, which = np.zeros(size), np.full(size, -1, dtype=np.intp)
    value[d[order]], which[d[order]] = iou[order], g[order]
    return value, which
