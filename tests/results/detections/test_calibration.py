"""Reliability against a plain loop, and D-ECE on detections whose error is known."""

import numpy as np
import pytest

from experiments.results.detections.calibration import calibration_error, reliability
from experiments.results.detections.matching import match, read_detections, read_truth


def one_object_an_image(scores, right):
    """A detection an image, on its object or beside it."""
    content = {
        "images": [{"id": n} for n in range(len(scores))],
        "categories": [{"id": 1, "name": "only"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9]} for n in range(len(scores))],
    }
    found = [
        {"image_id": n, "category_id": 1, "bbox": [0 if hit else 50, 0, 9, 9], "score": score}
        for n, (score, hit) in enumerate(zip(scores, right, strict=True))
    ]
    return match(read_detections(read_truth(content), found))


def test_error_by_hand():
    matched = one_object_an_image([0.9, 0.9, 0.9, 0.9, 0.1, 1.0], [1, 1, 1, 0, 0, 1])
    frame = reliability(matched, 0, bins=10)
    assert frame["detections"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0, 5]
    assert frame.loc[9, ["score", "precision"]].tolist() == pytest.approx([0.92, 0.8])
    assert calibration_error(frame) == pytest.approx((5 * 0.12 + 1 * 0.1) / 6)
    assert calibration_error(reliability(matched, 0.5, bins=10)) == pytest.approx(0.12)
    assert np.isnan(calibration_error(reliability(matched, 1.5)))


def test_scores_that_are_probabilities_have_no_error():
    rng = np.random.default_rng(0)
    score = rng.random(8_000)
    honest = calibration_error(reliability(one_object_an_image(score, rng.random(8_000) < score), 0))
    boastful = calibration_error(reliability(one_object_an_image(score, rng.random(8_000) < score**2), 0))
    assert honest < 0.03
    assert boastful == pytest.approx(1 / 2 - 1 / 3, abs=0.02)


def test_bins_against_a_loop_and_ignored_detections_do_not_count(noisy_scenes):
    annotations, detections = noisy_scenes(7, ties=False, num_images=40)
    matched = match(read_detections(read_truth(annotations), detections))
    assert matched.ignored.any()
    for row in reliability(matched, 0.3, bins=5).itertuples():
        score = matched.detections.score
        chosen = ~matched.ignored & (score >= max(row.low, 0.3)) & (score < row.high)
        assert row.detections == chosen.sum()
        if row.detections:
            assert row.precision == pytest.approx(matched.hit[chosen].mean())
            assert row.score == pytest.approx(score[chosen].mean())
