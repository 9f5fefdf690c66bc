"""The bootstrap of AP against COCOeval: by weights of 1, on really resampled files, and by its intervals' coverage."""

import contextlib
import copy
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.results import bootstrap
from experiments.results.image_intervals import ImageSamples, image_contrast
from experiments.schema.metrics import PRECISION

AREA_LIMITS = (40**2, 90**2)


def scenes(rng, num_images=12, num_classes=4, ties=True):
    """Random boxes with everything that COCOeval treats apart: crowds, areas that are not w * h, empty images, a class
    without objects, image and class ids with gaps, tied scores, detections of a wrong class and several of one object.
    """
    annotations, detections = [], []
    for image in 3 + 7 * np.arange(num_images):
        for _ in range(rng.integers(8) if rng.random() < 0.85 else 0):
            label = 1 + 2 * int(rng.integers(num_classes))
            box = np.concatenate([rng.uniform(0, 150, 2), rng.uniform(5, 150, 2)])
            crowd, area = int(rng.random() < 0.15), box[2] * box[3] * rng.uniform(0.5, 1)
            annotations.append(
                {"image_id": int(image), "category_id": label, "bbox": box.tolist(), "iscrowd": crowd, "area": area}
            )
            for _ in range(rng.integers(4)):
                score = round(rng.random(), 1) if ties else rng.random()
                found = {"category_id": label if rng.random() < 0.9 else 1, "score": score}
                detections.append({"image_id": int(image), "bbox": (box * rng.uniform(0.85, 1.2, 4)).tolist(), **found})
    images = [{"id": 3 + 7 * n} for n in range(num_images)]
    categories = [{"id": 1 + 2 * k, "name": f"class {k}"} for k in range(num_classes + 1)]
    annotations = [{**one, "id": n} for n, one in enumerate(annotations, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}, detections


def cocoeval(annotations, detections):
    """COCOeval itself, as it is meant to be used: its six figures, -1 as NaN, and its precision [T, R, K, A, M]."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
        small, large = AREA_LIMITS
        evaluator.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    figures = np.array(evaluator.stats[:6])
    return np.where(figures == -1, np.nan, figures), evaluator.eval["precision"]


def resampled(annotations, detections, counts):
    """A COCO file that really holds every image as often as `counts` says, and its detections."""
    copies = [
        (image["id"], new) for image, count in zip(annotations["images"], counts, strict=True) for new in range(count)
    ]
    new_ids = {old: [] for old, _ in copies}
    for new, (old, _) in enumerate(copies):
        new_ids[old].append(new)
    boxes, found = (
        [{**one, "image_id": new} for one in given for new in new_ids.get(one["image_id"], [])]
        for given in (annotations["annotations"], detections)
    )
    boxes = [{**one, "id": n} for n, one in enumerate(boxes, 1)]
    return {**annotations, "images": [{"id": n} for n in range(len(copies))], "annotations": boxes}, found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_weights_of_one_are_cocoeval(seed, ties):
    annotations, detections = scenes(np.random.default_rng(seed), ties=ties)
    if not detections:
        return  # loadRes itself cannot read an empty list
    ours = [bootstrap.ap(annotations, detections, metric=m, area_limits=AREA_LIMITS) for m in PRECISION]
    assert ours == pytest.approx(cocoeval(annotations, detections)[0], abs=1e-6, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(PRECISION))
def test_weights_are_multiplicities(seed, metric):
    rng = np.random.default_rng(seed)
    annotations, detections = scenes(rng, ties=False)  # copies of an image do tie, with themselves
    counts = bootstrap.image_weights(rng, 12, 3)
    table = bootstrap.match(annotations, detections, metric=metric, area_limits=AREA_LIMITS)
    for count, ours in zip(counts, bootstrap.weighted_ap(table, counts), strict=True):
        truth, found = resampled(annotations, detections, count)
        if found:
            want = cocoeval(truth, found)[0][PRECISION.index(metric)]
            assert ours == pytest.approx(want, abs=1e-6, nan_ok=True)


def test_classes_are_cocoeval_and_one_without_truth_is_undefined():
    annotations, detections = scenes(np.random.default_rng(0), num_images=60)
    table = bootstrap.match(annotations, detections)
    by_class = bootstrap.class_ap(table, np.ones((1, 60), dtype=int))[0]
    precision = cocoeval(annotations, detections)[1][:, :, :, 0, -1]
    assert by_class[:4] == pytest.approx(precision[:, :, :4].mean(axis=(0, 1)), abs=1e-6)
    assert table.classes[4] == "class 4" and np.isnan(by_class[4])


def test_the_ap_of_one_class_is_that_of_its_column():
    annotations, detections = scenes(np.random.default_rng(0), num_images=30)
    weights = bootstrap.image_weights(np.random.default_rng(1), 30, 5)
    every = bootstrap.class_ap(bootstrap.match(annotations, detections), weights)
    table = bootstrap.match(annotations, detections, metric="AP/class 2")
    assert table.classes == ("class 2",)
    assert (bootstrap.weighted_ap(table, weights) == every[:, 2]).all()
    frame = bootstrap.bootstrap_ap(annotations, {"a": detections}, 5, seed=0, metric="AP/class 2")
    assert (frame["a"] == bootstrap.bootstrap_ap(annotations, {"a": [table]}, 5, seed=0)["a"]).all()
    for wrong in ("AP/nobody", "AP50/class 2", "AR100"):
        with pytest.raises(ValueError, match=f"metric='{wrong}': choose one of AP, .* and one of class 0, class 1"):
            bootstrap.match(annotations, detections, metric=wrong)


def one_object_each(rng, num_images):
    """Images with one object of the same class, found for certain, and false detections here and there between."""
    box = {"bbox": [0, 0, 50, 50], "category_id": 1}
    annotations = {
        "images": [{"id": n} for n in range(num_images)],
        "categories": [{"id": 1, "name": "only"}],
        "annotations": [{**box, "image_id": n, "id": n + 1, "iscrowd": 0, "area": 2500} for n in range(num_images)],
    }
    true = [{**box, "image_id": n, "score": 1 - n / 1000} for n in range(num_images)]
    false = [{**one, "bbox": [200, 0, 9, 9], "score": one["score"] - 1e-4} for one in true if rng.random() < 0.5]
    return annotations, true + false


@pytest.mark.parametrize("num_images", [20, 50, 100])
def test_recall_thresholds_are_compared_as_cocoeval_does(num_images):
    # 7 objects of 20 are a recall of 0.35, below the threshold of 0.35000000000000003; 1 of 20 reaches its threshold.
    annotations, detections = one_object_each(np.random.default_rng(0), num_images)
    assert bootstrap.ap(annotations, detections) == pytest.approx(cocoeval(annotations, detections)[0][0], abs=1e-6)


def test_counts_beyond_float32_stay_exact():
    table = bootstrap.match(*one_object_each(np.random.default_rng(0), 20))
    ones = np.ones((1, 20), dtype=int)
    assert bootstrap.weighted_ap(table, 9_999_991 * ones) == pytest.approx(bootstrap.weighted_ap(table, ones), abs=1e-6)


def test_only_the_hundred_best_detections_of_an_image_and_class_count():
    annotations, detections = scenes(np.random.default_rng(0))
    false = {**detections[0], "bbox": [500, 500, 9, 9]}
    many = detections + [{**false, "score": 1.1 + n} for n in range(99)]
    assert bootstrap.ap(annotations, many) == pytest.approx(cocoeval(annotations, many)[0][0], abs=1e-6)
    full = [*many, {**false, "score": 1000}]
    assert bootstrap.ap(annotations, full) == pytest.approx(cocoeval(annotations, full)[0][0], abs=1e-6)
    assert bootstrap.ap(annotations, full) < bootstrap.ap(annotations, many)


def test_rows_are_paired_over_arms_and_an_arm_never_differs_from_itself():
    rng = np.random.default_rng(0)
    annotations, detections = scenes(rng, num_images=40)
    other = [{**one, "score": rng.random()} for one in detections]
    frame = bootstrap.bootstrap_ap(annotations, {"a": detections, "other": other, "again": detections}, 200, seed=3)
    assert list(frame) == ["a", "other", "again"] and len(frame) == 200
    assert (frame["a"] == frame["again"]).all()
    assert frame["a"].std() > 0 and frame["a"].corr(frame["other"]) > 0.3
    alone = bootstrap.bootstrap_ap(annotations, {"other": other}, 130, seed=3)  # neither arms nor chunks change a row
    assert (alone["other"] == frame["other"][:130]).all()
    assert (bootstrap.bootstrap_ap(annotations, {"a": detections}, 200, seed=4)["a"] != frame["a"]).any()


def test_an_undefined_replicate_is_nan():
    annotations, detections = scenes(np.random.default_rng(1), num_images=4)
    one_image = [
        one for one in annotations["annotations"] if one["image_id"] == annotations["annotations"][0]["image_id"]
    ]
    values = bootstrap.bootstrap_ap({**annotations, "annotations": one_image}, {"a": detections}, 300, seed=0)["a"]
    assert 0.2 < values.isna().mean() < 0.45  # (3/4)^4 = 0.32 of the replicates miss the image


def test_image_weights_are_multinomial():
    weights = bootstrap.image_weights(np.random.default_rng(0), 8, 20_000)
    assert (weights.sum(axis=1) == 8).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(8), abs=0.03)
    covariance = np.cov(weights.T)
    assert np.diag(covariance) == pytest.approx(np.full(8, 1 - 1 / 8), abs=0.03)
    assert covariance[0, 1] == pytest.approx(-1 / 8, abs=0.03)


def test_seeds_are_resampled_then_images():
    rng = np.random.default_rng(0)
    annotations, good = scenes(rng, num_images=40)
    poor = [{**one, "score": rng.random()} for one in good[::2]]

    def replicates(detections, **options):
        return bootstrap.bootstrap_ap(annotations, {"a": detections}, 400, seed=0, **options)["a"].to_numpy()

    a, b = replicates(good), replicates(poor)
    both = replicates([good, poor])
    drawn = np.isclose(both[:, None], np.stack([a, (a + b) / 2, b], axis=1), rtol=0, atol=1e-12)
    assert drawn.any(axis=1).all()  # the same images for either seed, and the mean over the two seeds drawn
    assert drawn.mean(axis=0) == pytest.approx([0.25, 0.5, 0.25], abs=0.07)
    assert replicates([good, poor], resample_seeds=False) == pytest.approx((a + b) / 2, abs=1e-12)
    assert (replicates([good]) == a).all()


def test_files_and_parsed_files_are_the_same_and_are_not_changed(tmp_path):
    annotations, detections = scenes(np.random.default_rng(0))
    before = copy.deepcopy((annotations, detections))
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(annotations))
    found.write_text(json.dumps(detections))
    from_files = bootstrap.bootstrap_ap(str(truth), {"a": str(found), "two": [found, found]}, 5, seed=0)
    parsed = bootstrap.bootstrap_ap(annotations, {"a": detections, "two": [detections, detections]}, 5, seed=0)
    assert from_files.equals(parsed) and (annotations, detections) == before


def test_no_detections_is_ap_zero_and_no_truth_is_undefined():
    annotations, detections = scenes(np.random.default_rng(0))
    assert bootstrap.ap(annotations, []) == 0
    assert (bootstrap.bootstrap_ap(annotations, {"a": [], "seeds": [[], []]}, 3, seed=0) == 0).all(axis=None)
    assert np.isnan(bootstrap.ap({**annotations, "annotations": []}, detections))


def test_missing_fields_and_ids_from_zero_are_filled_in():
    annotations, detections = scenes(np.random.default_rng(0))
    boxes = annotations["annotations"]
    full = [{**one, "iscrowd": 0, "area": one["bbox"][2] * one["bbox"][3]} for one in boxes]
    bare = [{"id": n, **{k: one[k] for k in ("image_id", "category_id", "bbox")}} for n, one in enumerate(boxes)]
    for metric in PRECISION:
        filled, want = (
            bootstrap.ap({**annotations, "annotations": a}, detections, metric=metric) for a in (bare, full)
        )
        assert filled == want


def test_mistakes_are_named():
    annotations, detections = scenes(np.random.default_rng(0))
    with pytest.raises(ValueError, match="image 99,"):
        bootstrap.bootstrap_ap(annotations, {"a": [*detections, {**detections[0], "image_id": 99}]}, 2, seed=0)
    with pytest.raises(ValueError, match="metric='mAP'"):
        bootstrap.ap(annotations, detections, metric="mAP")
    with pytest.raises(ValueError, match="replicates=0"):
        bootstrap.bootstrap_ap(annotations, {"a": detections}, 0, seed=0)


def test_intervals_cover_a_known_difference():
    """Validation sets drawn from a finite population, whose difference is therefore known exactly."""
    rng = np.random.default_rng(0)
    size, num_images, replicates, simulations = 400, 200, 256, 800
    box = {"bbox": [0, 0, 50, 50], "category_id": 1}
    boxes = [
        {**box, "image_id": n, "bbox": [100 * k, 0, 50, 50]} for n in range(size) for k in range(rng.integers(1, 4))
    ]
    annotations = {
        "images": [{"id": n} for n in range(size)],
        "categories": [{"id": 1, "name": "only"}],
        "annotations": boxes,
    }

    def arm(found):
        hits = [{**one, "score": rng.beta(3, 2)} for one in boxes if rng.random() < found]
        return hits + [{**box, "image_id": n, "bbox": [0, 200, 50, 50], "score": rng.beta(2, 3)} for n in range(size)]

    tables = {name: bootstrap.match(annotations, arm(found), metric="AP50") for name, found in (("a", 0.7), ("b", 0.6))}
    truth = np.subtract(*(bootstrap.weighted_ap(t, np.ones((1, size), dtype=int))[0] for t in tables.values()))
    assert truth > 0.05
    covered = 0
    for _ in range(simulations):
        weights = np.zeros((size, replicates), dtype=int)
        np.add.at(weights, rng.integers(size, size=num_images), bootstrap.image_weights(rng, num_images, replicates).T)
        a, b = (bootstrap.weighted_ap(table, weights.T) for table in tables.values())
        drawn = pd.DataFrame({"a": a, "b": b})
        interval = image_contrast(ImageSamples(num_images, drawn.mean(), None, drawn), {"a": 1.0, "b": -1.0})
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / simulations <= 0.97
