"""Which class is taken for which at a threshold."""

import numpy as np

from experiments.results.detections.matching import IOU, Matched


def confusion(matched: Matched, threshold: float) -> np.ndarray:
    """Counts [K + 1, K + 1]: the row is the object's class, the column the detection's, the last ones are background.

    Hits first, so the diagonal holds exactly the hits of `counts`. Then the false alarms, best first, take one of the
    objects of other classes that are left, the one they overlap most, at an IoU of at least 0.5. What remains are
    false alarms on background (last row) and missed objects (last column).
    """
    found, truth = matched.detections, matched.detections.truth
    n, background = found.kept(threshold), len(truth.classes)
    table = np.zeros((background + 1, background + 1), dtype=int)
    np.add.at(table, (found.label[:n][matched.hit[:n]],) * 2, 1)
    free, alarm = matched.missed(threshold), matched.false_alarm[:n].copy()
    d, g, iou = found.pair_detection, found.pair_object, found.pair_iou
    pairs = np.flatnonzero((d < n) & (iou >= IOU) & (found.label[d] != truth.label[g]) & free[g])
    pairs = pairs[alarm[d[pairs]]]
    pairs = pairs[np.lexsort((-iou[pairs], d[pairs]))]
    for one, other in zip(d[pairs].tolist(), g[pairs].tolist(), strict=True):
        if alarm[one] and free[other]:
            table[truth.label[other], found.label[one]] += 1
            alarm[one] = free[other] = False
    table[background, :background] = np.bincount(found.label[:n][alarm], minlength=background)
    table[:background, background] = np.bincount(truth.label[free], minlength=background)
    return table
