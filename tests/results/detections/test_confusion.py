"""Which class is taken for which: by hand, and its margins against the counts."""

import pytest

from experiments.results.detections.confusion import confusion
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import counts

BOX = [100, 100, 100, 100]


def table(objects, detections, threshold=0.0):
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": c, "bbox": b} for i, (c, b) in enumerate(objects)],
    }
    found = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in detections]
    return confusion(match(read_detections(read_truth(content), found)), threshold).tolist()


def test_by_hand():
    assert table([(1, BOX)], [(1, BOX, 0.9)]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert table([(1, BOX)], [(2, BOX, 0.9)]) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert table([(1, BOX)], [(2, [500, 0, 9, 9], 0.9)]) == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    # the object goes to the detection of its class although another one scores higher
    assert table([(1, BOX)], [(2, BOX, 0.9), (1, BOX, 0.8)]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    # below the threshold that detection is gone, and the object is taken for a dog
    assert table([(1, BOX)], [(2, BOX, 0.9), (1, BOX, 0.8)], 0.85) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    # of two false alarms the better one takes the object
    assert table([(1, BOX)], [(2, BOX, 0.7), (2, BOX, 0.6)]) == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("threshold", [0, 0.4, 0.9])
def test_margins_are_the_counts(noisy_scenes, threshold):
    annotations, detections = noisy_scenes(6, num_images=30)
    matched = match(read_detections(read_truth(annotations), detections))
    found, want = confusion(matched, threshold), counts(matched, threshold)
    assert found.diagonal()[:-1].sum() == want.hits
    assert found[:, :-1].sum() == want.hits + want.false_alarms
    assert found[:-1].sum() == want.hits + want.misses
    off_diagonal = found[:-1, :-1].sum() - want.hits
    assert 0 < off_diagonal < found[-1].sum() or threshold == 0.9
