"""Counts and curves against COCOeval's evalImgs and precision."""

import numpy as np
import pytest
from reference import counts_by_image as counts_by_cocoeval
from reference import evaluated

from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import (
    Counts,
    counts,
    counts_by_image,
    precision_recall,
    threshold_curve,
)


@pytest.fixture(scope="module")
def both(noisy_scenes):
    """Our matching and COCOeval after accumulate(), at IoU 0.5 and area all."""
    annotations, detections = noisy_scenes(5, num_images=40)
    evaluator = evaluated(annotations, detections)
    evaluator.accumulate()
    return match(read_detections(read_truth(annotations), detections)), evaluator


@pytest.mark.parametrize("threshold", [0, 0.2, 0.5, 0.75, 1.0, 1.1])
def test_counts_are_those_of_cocoeval(both, threshold):
    matched, evaluator = both
    ours = counts_by_image(matched, threshold)
    want = counts_by_cocoeval(evaluator, threshold)
    assert ours.to_numpy().tolist() == list(want.values())
    assert counts(matched, threshold) == Counts(*ours.sum().tolist())


def test_precision_recall_is_cocoevals(both):
    matched, evaluator = both
    precision = evaluator.eval["precision"][0, :, :, 0, -1]  # (recall, class) at IoU 0.5
    assert precision_recall(matched) == pytest.approx(precision[:, :4].mean(axis=1), abs=1e-12)
    assert precision_recall(matched.restricted([2])) == pytest.approx(precision[:, 2], abs=1e-12)
    assert np.isnan(precision_recall(matched.restricted([4]))).all()  # the class without objects


def test_figures_of_counts():
    assert (Counts(6, 2, 4).precision, Counts(6, 2, 4).recall) == (0.75, 0.6)
    assert Counts(6, 2, 4).f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert Counts(0, 0, 3).recall == 0 and np.isnan(Counts(0, 0, 3).precision) and Counts(0, 0, 3).f1 == 0
    assert np.isnan(Counts(0, 0, 0).f1) and np.isnan(Counts(0, 1, 0).recall)


def test_curve_has_the_counts_of_every_threshold(both):
    curve = threshold_curve(both[0])
    assert len(curve) == 101 and curve["recall"].is_monotonic_decreasing
    row = curve[curve["threshold"] == 0.5].iloc[0]
    want = counts(both[0], 0.5)
    assert (row["hits"], row["precision"], row["f1"]) == (want.hits, want.precision, want.f1)
