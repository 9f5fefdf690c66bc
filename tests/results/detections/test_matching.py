"""Matching against COCOeval's own evalImgs: at every threshold, with crowds, sizes, ties and damaged records."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import evaluated

from experiments.results.detections.matching import load, match, read_detections, read_truth

AREAS = [(0, 1e10), (0, 40**2), (40**2, 90**2), (90**2, 1e10)]


def cocoeval(annotations, detections, iou=0.5):
    """COCOeval after evaluate() at one IoU and all AREAS."""
    areas = [list(area) for area in AREAS]
    return evaluated(annotations, detections, iouThrs=np.array([iou]), areaRng=areas, maxDets=[100])


def rows_of(evaluator, area):
    """(image, class, score, annotation found or 0, ignored) of every detection, and (annotation, ignored), sorted."""
    detections, objects = [], []
    for one in evaluator.evalImgs:
        if one and one["aRng"] == list(area):
            found = one["dtMatches"][0].astype(int).tolist(), one["dtIgnore"][0].tolist()
            for score, annotation, ignored in zip(one["dtScores"], *found, strict=True):
                detections.append((one["image_id"], one["category_id"], score, annotation, ignored))
            objects += zip(one["gtIds"], np.array(one["gtIgnore"], dtype=bool).tolist(), strict=True)
    return sorted(detections), sorted(objects)


def rows(matched, annotations, threshold):
    """The same of ours, for the detections from the threshold on."""
    found, truth = matched.detections, matched.detections.truth
    order = {image["id"]: n for n, image in enumerate(annotations["images"])}
    by_image = sorted(annotations["annotations"], key=lambda one: order[one["image_id"]])
    ids = np.array([one["id"] for one in by_image] + [0])
    n = found.kept(threshold)
    columns = (
        truth.image_ids[found.image[:n]], truth.category_ids[found.label[:n]], found.score[:n],
        ids[matched.match[:n]], matched.ignored[:n],
    )  # fmt: skip
    detections = sorted(zip(*(column.tolist() for column in columns), strict=True))
    return detections, sorted(zip(ids[:-1].tolist(), matched.truth_ignored.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans(), iou=st.sampled_from([0.5, 0.75]))
def test_matches_at_every_threshold_are_those_of_cocoeval_without_the_lower_detections(noisy_scenes, seed, ties, iou):
    annotations, detections = noisy_scenes(seed, ties)
    ours = read_detections(read_truth(annotations), detections)
    for threshold in (0, 0.3, 0.5, 0.8):
        kept = [one for one in detections if one["score"] >= threshold]
        if not kept:
            continue  # loadRes cannot read an empty list
        evaluator = cocoeval(annotations, kept, iou)
        for area in AREAS:
            assert rows(match(ours, area, iou), annotations, threshold) == rows_of(evaluator, area)


def test_of_two_objects_that_overlap_equally_the_later_one_is_found():
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50]}
    annotations = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "only"}],
        "annotations": [box | {"id": i, "iscrowd": 0, "area": 2500} for i in (1, 2)],
    }
    detections = [box | {"score": 0.9}]
    ours = rows(match(read_detections(read_truth(annotations), detections)), annotations, 0)
    assert ours == rows_of(cocoeval(annotations, detections), AREAS[0])
    assert ours[0][0][3] == 2


def test_only_the_hundred_best_of_a_class_in_an_image_take_part(noisy_scenes):
    annotations, detections = noisy_scenes(1)
    many = detections + [{**detections[0], "bbox": [250, 250, 9, 9], "score": 1 + n / 99} for n in range(99)]
    matched = match(read_detections(read_truth(annotations), many))
    beyond = len(many) - len(rows_of(cocoeval(annotations, many), AREAS[0])[0])
    assert beyond > 0
    counted = [row for row in rows(matched, annotations, 0)[0] if not row[4]]
    assert counted == [row for row in rows_of(cocoeval(annotations, many), AREAS[0])[0] if not row[4]]


def test_other_classes_can_be_ignored_afterwards(noisy_scenes):
    annotations, detections = noisy_scenes(2)
    matched = match(read_detections(read_truth(annotations), detections)).restricted([1, 3])
    ids = {3, 7}
    alone = {**annotations, "annotations": [a for a in annotations["annotations"] if a["category_id"] in ids]}
    want = match(read_detections(read_truth(alone), [d for d in detections if d["category_id"] in ids]))
    for threshold in (0, 0.5):
        assert matched.missed(threshold).sum() == want.missed(threshold).sum() > 0
    assert matched.hit.sum() == want.hit.sum() > 0
    assert matched.false_alarm.sum() == want.false_alarm.sum() > 0


def test_detections_of_an_image_come_best_first(noisy_scenes):
    annotations, detections = noisy_scenes(3)
    found = read_detections(read_truth(annotations), detections)
    for n, image in enumerate(annotations["images"]):
        want = sorted((d["score"] for d in detections if d["image_id"] == image["id"]), reverse=True)
        assert found.score[found.of_image(n)].tolist() == want


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 4}, "of images that the annotations do not have"),
        ({"category_id": 2**40}, "of classes that the annotations do not have"),
        ({"score": float("nan")}, "whose score is not a number"),
        ({"score": float("inf")}, "whose score is not a number"),
        ({"bbox": [0, 0, float("nan"), 1]}, "whose box is impossible"),
        ({"bbox": [0, 0, 1e300, 1]}, "whose box is impossible"),
        ({"bbox": [0, 0, -1, 1]}, "whose box is impossible"),
    ],
)
def test_records_that_cannot_be_used_are_counted_and_change_nothing_else(noisy_scenes, change, reason):
    annotations, detections = noisy_scenes(4)
    truth = read_truth(annotations)
    found = read_detections(truth, [detections[0] | change, *detections[1:]])
    assert found.left_out == {reason: 1}
    assert found.score.tolist() == read_detections(truth, detections[1:]).score.tolist()


@pytest.mark.parametrize("rows", [[{"image_id": 3}], [[]], [None], 7, [{"image_id": "x", "category_id": 1}]])
def test_what_is_no_results_list_is_refused_in_words(noisy_scenes, rows):
    with pytest.raises(ValueError, match="the stored predictions are damaged"):
        read_detections(read_truth(noisy_scenes(0)[0]), rows)


@pytest.mark.parametrize("content", [{}, [], None, {"images": [{}], "categories": [], "annotations": []}])
def test_what_is_no_annotation_file_is_refused_in_words(content):
    with pytest.raises(ValueError, match="the stored annotations are damaged"):
        read_truth(content)


@pytest.mark.parametrize("text", ["", '[{"a": 1', "\xff", "[" * 100_000])
def test_a_half_written_file_is_named(tmp_path, text):
    (tmp_path / "found.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"found\.json is damaged or half-written"):
        load(tmp_path / "found.json")


def test_nothing_found_and_nothing_to_find():
    truth = read_truth({"images": [{"id": 1}], "categories": [], "annotations": []})
    matched = match(read_detections(truth, []))
    assert len(matched.hit) == len(matched.missed(0)) == 0
    found = read_detections(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}])
    assert found.left_out == {"of classes that the annotations do not have": 1}
