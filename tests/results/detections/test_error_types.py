"""Error types on scenes made by hand, and against TIDE's own code.

tide_witness.json holds two scenes with what tidecv 1.0.1 (the authors' package, from PyPI) says of them:
`TIDERun(gt, preds, 0.5, 0.1, TIDE.BOX, 100)`, its `ap`, `count_errors`, `fix_main_errors` and `fix_special_errors`.
"""

import json
from pathlib import Path

import pytest

from experiments.results.detections.error_types import SPECIAL, TYPES, classify, costs
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import precision_recall

CAT, DOG = 1, 2
OBJECT = [100, 100, 100, 100]


def errors(objects, detections):
    """Of one image; objects are (class, box), detections (class, box, score)."""
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": c, "bbox": b} for i, (c, b) in enumerate(objects)],
    }
    found = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in detections]
    return classify(match(read_detections(read_truth(content), found)))


def moved(x):
    """The object's box shifted to the right, with an IoU of (100 - x) / (100 + x)."""
    return [100 + x, 100, 100, 100]


@pytest.mark.parametrize(
    ("label", "box", "kind"),
    [
        (CAT, moved(34), "localisation"),  # IoU 0.49
        (CAT, moved(81), "localisation"),  # IoU 0.105
        (CAT, moved(83), "background"),  # IoU 0.093
        (DOG, moved(33), "classification"),  # IoU 0.504
        (DOG, moved(34), "both"),
        (DOG, moved(81), "both"),
        (DOG, moved(83), "background"),
        (CAT, [500, 500, 9, 9], "background"),
    ],
)
def test_type_of_the_only_detection(label, box, kind):
    found = errors([(CAT, OBJECT)], [(label, box, 0.9)])
    assert [TYPES[k] for k in found.kind] == [kind]
    assert (found.target[0] == 0) == (kind in ("classification", "localisation"))
    # the object is missed unless a classification or localisation error explains it
    assert found.counts(0)["missed"] == (kind not in ("classification", "localisation"))


def test_a_second_detection_of_an_object_is_a_duplicate_and_a_hit_no_error():
    found = errors([(CAT, OBJECT)], [(CAT, moved(5), 0.8), (CAT, moved(1), 0.9)])
    assert found.kind.tolist() == [-1, TYPES.index("duplicate")]
    assert found.counts(0).sum() == 1


def test_a_threshold_keeps_the_types_above_it_and_brings_missed_objects_back():
    found = errors([(CAT, OBJECT)], [(CAT, OBJECT, 0.9), (CAT, moved(5), 0.8), (DOG, OBJECT, 0.7)])
    assert found.counts(0).to_dict() == dict.fromkeys(TYPES, 0) | {"duplicate": 1, "classification": 1}
    assert found.counts(0.75).to_dict() == dict.fromkeys(TYPES, 0) | {"duplicate": 1}
    assert found.counts(0.95).to_dict() == dict.fromkeys(TYPES, 0) | {"missed": 1}
    explained = errors([(CAT, OBJECT)], [(CAT, OBJECT, 0.6), (DOG, OBJECT, 0.7)])
    assert explained.counts(0.65).to_dict() == dict.fromkeys(TYPES, 0) | {"classification": 1}


def test_crowds_are_no_objects_of_an_error():
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": CAT, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": CAT, "bbox": OBJECT, "iscrowd": 1}],
    }
    rows = [{"image_id": 1, "category_id": CAT, "bbox": box, "score": 0.9} for box in (OBJECT, moved(60))]
    found = classify(match(read_detections(read_truth(content), rows)))
    assert found.kind.tolist() == [-1, TYPES.index("background")]


@pytest.mark.parametrize(
    ("detections", "cost"),
    [
        # the one cat is not found: AP50 is 0, and 1 once that is mended
        ([(CAT, moved(50), 0.9)], {"localisation": 1, "false negatives": 0}),
        ([(DOG, OBJECT, 0.9)], {"classification": 1}),
        # found, but second: precision 1/2 at every recall
        ([(CAT, [500, 500, 9, 9], 0.9), (CAT, OBJECT, 0.8)], {"background": 0.5, "false positives": 0.5}),
        ([(CAT, moved(83), 0.9), (CAT, OBJECT, 0.8)], {"background": 0.5, "false positives": 0.5}),
        # two errors about one object: the better one is mended and the other goes
        ([(CAT, moved(50), 0.9), (CAT, moved(60), 0.8)], {"localisation": 1, "false negatives": 0}),
        # the better one is of another type: mending localisation alone mends nothing
        ([(DOG, OBJECT, 0.9), (CAT, moved(50), 0.8)], {"classification": 1, "false negatives": 0}),
    ],
)
def test_costs_by_hand(detections, cost):
    found = costs(errors([(CAT, OBJECT)], detections))
    assert found.to_dict() == pytest.approx(dict.fromkeys((*TYPES, *SPECIAL), 0) | cost)


def test_a_missed_object_costs_recall():
    found = costs(errors([(CAT, OBJECT), (CAT, [400, 400, 50, 50])], [(CAT, OBJECT, 0.9)]))
    assert found["missed"] == found["false negatives"] == pytest.approx(1 - 51 / 101)  # recall 0.5 of 101 points
    assert found.drop(["missed", "false negatives"]).eq(0).all()


@pytest.mark.parametrize("scene", [0, 1])
def test_counts_and_costs_are_those_of_tide(scene):
    want = json.loads((Path(__file__).parent / "tide_witness.json").read_text())[scene]
    matched = match(read_detections(read_truth(want["annotations"]), want["detections"]))
    found = classify(matched)
    assert 100 * precision_recall(matched).mean() == pytest.approx(want["AP50"])
    assert found.counts(0).tolist() == want["counts"]
    assert (100 * costs(found)).tolist() == pytest.approx(want["costs"])
