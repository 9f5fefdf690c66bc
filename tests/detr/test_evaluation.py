"""COCO metrics against pycocotools itself, and predictions that do not depend on the batch."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr.config import EvaluationConfig
from detr.criterion import SetCriterion
from detr.data import open_split
from detr.errors import InputError
from detr.evaluation import STATS, evaluate_coco, predict_dataset, validation_loader
from detr.models import build_model
from detr.setup import prepare


@pytest.fixture
def scenes(write_coco):
    """20 images of 200 x 200 with objects of all sizes, a crowd box and an image without objects."""
    rng = np.random.default_rng(0)
    objects = []
    for _ in range(19):
        corners, sides = rng.integers(0, 60, (4, 2)), rng.integers(8, 140, (4, 2))
        objects.append(
            [(int(rng.choice([3, 7])), [*map(int, c), *map(int, s)]) for c, s in zip(corners, sides, strict=True)]
        )
    objects[0].append({"category_id": 3, "bbox": [0, 0, 90, 90], "iscrowd": 1})
    return write_coco([*objects, []], categories=(3, 7), size=(200, 200)) / "annotations.json"


def noisy_detections(annotations, seed: int = 0) -> list[dict]:
    """Shifted copies of the objects, and false ones."""
    rng = np.random.default_rng(seed)
    detections = []
    for record in json.loads(annotations.read_text())["annotations"]:
        box = (np.array(record["bbox"]) + rng.normal(0, 4, 4)).clip(1).tolist()
        detections.append(
            {"image_id": record["image_id"], "category_id": record["category_id"], "bbox": box, "score": rng.random()}
        )
        detections.append({**detections[-1], "bbox": [1.0, 1.0, 20.0, 20.0], "score": rng.random() / 2})
    return detections


def by_pycocotools(annotations, detections) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        for record in truth.dataset["annotations"]:
            record.setdefault("area", record["bbox"][2] * record["bbox"][3])
            record.setdefault("iscrowd", 0)
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_figures_are_those_of_pycocotools(scenes):
    detections = noisy_detections(scenes)
    found = evaluate_coco(scenes, detections)
    assert [found[key] for key in STATS] == by_pycocotools(scenes, detections)
    assert 0.1 < found["AP"] < 0.9


@pytest.mark.parametrize("detections", ["noisy", "perfect", "none"])
def test_the_faster_library_gives_the_same_figures(scenes, detections):
    pytest.importorskip("faster_coco_eval", exc_type=ImportError)
    found = {"noisy": noisy_detections(scenes), "perfect": perfect(scenes), "none": []}[detections]
    found.append({"image_id": 1, "category_id": 3, "bbox": [0, 0, 85, 85], "score": 0.99})  # of a crowd
    limits = (400.0, 2500.0)
    reference, faster = evaluate_coco(scenes, found, limits), evaluate_coco(scenes, found, limits, "faster-coco-eval")
    assert faster == pytest.approx(reference, rel=0, abs=1e-12)
    assert faster.keys() == reference.keys()


def test_a_library_that_is_not_installed_is_named_before_training(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match=r"evaluation\.backend='faster-coco-eval'.*pip install faster-coco-eval"):
        prepare(tiny_run(evaluation={"backend": "faster-coco-eval"}))


def test_list_and_file_of_detections_agree_and_classes_are_named(scenes, tmp_path):
    detections = noisy_detections(scenes)
    (tmp_path / "detections.json").write_text(json.dumps(detections))
    found = evaluate_coco(scenes, tmp_path / "detections.json")
    assert found == evaluate_coco(scenes, detections)
    assert found["AP"] == pytest.approx((found["AP/class 3"] + found["AP/class 7"]) / 2)


def perfect(annotations) -> list[dict]:
    return [
        {"image_id": r["image_id"], "category_id": r["category_id"], "bbox": r["bbox"], "score": 0.9}
        for r in json.loads(annotations.read_text())["annotations"]
        if not r.get("iscrowd")
    ]


def test_perfect_detections(scenes):
    assert evaluate_coco(scenes, perfect(scenes))["AP"] == pytest.approx(1)


def test_a_detection_of_a_crowd_is_ignored_not_false(scenes):
    extra = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 85, 85], "score": 0.99}
    assert evaluate_coco(scenes, [*perfect(scenes), extra])["AP"] == pytest.approx(1)
    assert evaluate_coco(scenes, [*perfect(scenes), {**extra, "image_id": 20}])["AP"] < 1


def test_no_detections_at_all(scenes):
    assert evaluate_coco(scenes, [])["AP"] == 0


def test_nothing_to_find_is_minus_one_not_zero(write_coco):
    annotations = write_coco([[(1, [0, 0, 10, 10])]]) / "annotations.json"
    found = evaluate_coco(annotations, [])
    assert (found["APS"], found["APL"], found["AP/class 2"]) == (0, -1, -1)


def test_size_strata_follow_the_annotations_area_not_the_box(write_coco):
    record = {"category_id": 1, "bbox": [0, 0, 40, 40], "area": 900}  # the box has 1,600 px^2
    annotations = write_coco([[record]]) / "annotations.json"
    found = evaluate_coco(annotations, perfect(annotations))
    assert (found["APS"], found["APM"]) == (pytest.approx(1), -1)


def test_area_limits_are_a_setting(write_coco):
    annotations = write_coco([[(1, [0, 0, 12, 12])]]) / "annotations.json"
    found = evaluate_coco(annotations, perfect(annotations), area_limits=(100.0, 300.0))
    assert (found["APS"], found["APM"], found["APL"]) == (-1, pytest.approx(1), -1)


@pytest.mark.parametrize("categories", [(0, 1), (3, 90)])
def test_ids_from_zero_or_with_gaps(write_coco, categories):
    boxes = [(categories[0], [0, 0, 20, 20]), (categories[1], [20, 10, 30, 20])]
    annotations = write_coco([boxes], categories) / "annotations.json"
    content = json.loads(annotations.read_text())
    for record in content["annotations"]:
        record["id"] -= 1  # pycocotools takes a match with annotation 0 for no match
    annotations.write_text(json.dumps(content))
    assert evaluate_coco(annotations, perfect(annotations))["AP"] == pytest.approx(1)


def test_detections_of_an_unknown_image_are_named(scenes):
    with pytest.raises(InputError, match="the image 99"):
        evaluate_coco(scenes, [{"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}])


# From the model to the figures


def predictions(model, root, data, evaluation):
    dataset = open_split(data, "val")
    loader = validation_loader(dataset, data, evaluation)
    found, losses = predict_dataset(model, loader, SetCriterion(model.num_classes), torch.device("cpu"))
    by_image: dict[int, np.ndarray] = {}
    for d in found:
        by_image.setdefault(d["image_id"], []).append([d["score"], d["category_id"], *d["bbox"]])
    return {i: np.array(rows) for i, rows in by_image.items()}, losses


@pytest.fixture
def mixed_sizes(write_coco):
    """Images of different sizes in one folder."""
    root = write_coco([[(1, [2, 2, 20, 20])], [(2, [5, 5, 9, 9]), (1, [1, 1, 30, 30])]], size=(40, 60))
    other = write_coco([[(1, [2, 2, 20, 20])], []], size=(56, 40), name="other")
    content, more = (json.loads((r / "annotations.json").read_text()) for r in (root, other))
    for image in more["images"]:
        (other / "images" / image["file_name"]).rename(root / "images" / f"other{image['file_name']}")
        content["images"].append({**image, "id": image["id"] + 10, "file_name": f"other{image['file_name']}"})
    for record in more["annotations"]:
        content["annotations"].append({**record, "id": record["id"] + 100, "image_id": record["image_id"] + 10})
    (root / "annotations.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("pad_to", [1, 32])
def test_predictions_do_not_depend_on_the_batch(tiny_model, coco_config, mixed_sizes, pad_to):
    model, data = build_model(tiny_model(num_classes=2)), coco_config(mixed_sizes)
    alone, lost_alone = predictions(model, mixed_sizes, data, EvaluationConfig(batch_size=1, pad_to=pad_to))
    together, lost = predictions(model, mixed_sizes, data, EvaluationConfig(batch_size=8, pad_to=pad_to))
    assert alone.keys() == together.keys() == {1, 2, 11, 12}
    for image, rows in alone.items():
        np.testing.assert_allclose(together[image], rows, atol=2e-3)  # boxes are rounded to 1e-3 pixels
    assert lost == pytest.approx(lost_alone, rel=1e-5)


def test_padding_as_the_official_code_does_depends_on_the_batch(tiny_model, coco_config, mixed_sizes):
    """What `pad_to` is for: padded to the largest of the batch, the convolutions see other borders."""
    model, data = build_model(tiny_model(num_classes=2)), coco_config(mixed_sizes)
    alone, _ = predictions(model, mixed_sizes, data, EvaluationConfig(batch_size=1, pad_to=0))
    together, _ = predictions(model, mixed_sizes, data, EvaluationConfig(batch_size=8, pad_to=0))
    assert max(np.abs(together[i] - alone[i]).max() for i in alone) > 0.01


def test_all_queries_become_detections_in_original_pixels(tiny_model, coco_config, mixed_sizes):
    model = build_model(tiny_model(num_classes=2))
    data = coco_config(mixed_sizes, image_size=80, max_size=120)
    found, _ = predictions(model, mixed_sizes, data, EvaluationConfig())
    assert all(len(rows) == 5 for rows in found.values())
    assert {c for rows in found.values() for c in rows[:, 1]} <= {1, 2}
    centres = found[1][:, 2:4] + found[1][:, 4:6] / 2
    assert (centres <= [60, 40]).all()


def test_validation_loss_is_that_of_the_whole_set_as_one_batch(tiny_model, coco_config, write_coco):
    root = write_coco([[(1, [2, 2, 20, 20])], [], [(2, [5, 5, 9, 9]), (1, [1, 1, 30, 30]), (1, [9, 9, 9, 9])]])
    model, data = build_model(tiny_model(num_classes=2)), coco_config(root)
    _, whole = predictions(model, root, data, EvaluationConfig(batch_size=3))
    _, parts = predictions(model, root, data, EvaluationConfig(batch_size=1))
    assert parts == pytest.approx(whole, rel=1e-5)
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error"} <= whole.keys()


def test_model_with_more_classes_than_the_data(tiny_model, coco_config, write_coco):
    """Labels that stand for no category of the data are not detections of one."""
    root = write_coco([[(1, [2, 2, 20, 20])]])
    model = build_model(tiny_model(num_classes=40))
    torch.nn.init.constant_(model.class_embed.bias[33:34], 50)
    found, _ = predictions(model, root, coco_config(root), EvaluationConfig())
    assert {c for rows in found.values() for c in rows[:, 1]} <= {1, 2}
