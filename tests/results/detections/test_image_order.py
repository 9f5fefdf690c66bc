"""Orders of images: by hand and against their definitions."""

import numpy as np
import pytest

from experiments.results.detections import image_order
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import counts_by_image

CONTENT = {
    "images": [{"id": 10}, {"id": 20}, {"id": 30}],
    "categories": [{"id": 1, "name": "only"}],
    "annotations": [
        {"id": 1, "image_id": 10, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"id": 2, "image_id": 10, "category_id": 1, "bbox": [50, 0, 9, 9]},
        {"id": 3, "image_id": 20, "category_id": 1, "bbox": [0, 0, 9, 9]},
    ],
}


def arm(*found):
    """Detections are (image, x, score)."""
    rows = [{"image_id": i, "category_id": 1, "bbox": [x, 0, 9, 9], "score": s} for i, x, s in found]
    return match(read_detections(read_truth(CONTENT), rows))


def test_disagreement_counts_objects_and_not_numbers_of_objects():
    left, right = arm((10, 0, 0.9)), arm((10, 50, 0.9), (20, 0, 0.4), (30, 0, 0.9))
    # both find one object of image 10, but not the same; image 30 has a false alarm in one of them
    assert image_order.disagreement([left, right], 0.5).tolist() == [2, 0, 1]
    assert image_order.disagreement([left, right], 0.3).tolist() == [2, 1, 1]
    assert image_order.disagreement([left, left], 0.3).tolist() == [0, 0, 0]
    assert image_order.disagreement([left], 0.3).tolist() == [0, 0, 0]
    assert image_order.misses([left, right], 0.5).tolist() == [2, 2, 0]
    assert image_order.false_alarms([left, right], 0.5).tolist() == [0, 0, 1]


def test_weighted_errors_are_the_mean_over_all_thresholds(noisy_scenes):
    annotations, detections = noisy_scenes(8, ties=False)
    matched = match(read_detections(read_truth(annotations), detections))
    middles = (np.arange(500) + 0.5) / 500
    want = np.mean([counts_by_image(matched, t)[["false_alarms", "misses"]].sum(axis=1) for t in middles], axis=0)
    assert image_order.weighted_errors([matched]) == pytest.approx(want, abs=0.02)
    assert image_order.weighted_errors([matched, matched]) == pytest.approx(2 * want, abs=0.04)
