"""What pycocotools says, for tests."""

import contextlib
import copy
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def evaluated(annotations: dict, detections: list[dict], **params) -> COCOeval:
    """COCOeval of boxes after evaluate(), with these parameters."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
    return evaluator


def counts_by_image(evaluator: COCOeval, threshold: float) -> dict[int, list[int]]:
    """image id -> hits, false alarms, misses at the first IoU and area range, of detections from the threshold on."""
    found = {image: [0, 0, 0] for image in evaluator.params.imgIds}
    for one in evaluator.evalImgs:
        if one and one["aRng"] == evaluator.params.areaRng[0]:
            kept = (np.array(one["dtScores"]) >= threshold) & ~one["dtIgnore"][0].astype(bool)
            hits = int(((one["dtMatches"][0] > 0) & kept).sum())
            objects = int((np.array(one["gtIgnore"]) == 0).sum())
            row = found[one["image_id"]]
            found[one["image_id"]] = [row[0] + hits, row[1] + int(kept.sum()) - hits, row[2] + objects - hits]
    return found


def counts(evaluator: COCOeval, threshold: float) -> tuple[int, int, int]:
    """Hits, false alarms and misses of all images together."""
    return tuple(np.sum(list(counts_by_image(evaluator, threshold).values()), axis=0).tolist())
