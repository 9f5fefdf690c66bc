"""`detr-evaluate`: metrics, predictions and audit of a checkpoint on a folder in COCO format."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from detr.checkpoint import save_weights
from detr.config import EvaluationConfig, RunConfig
from detr.config_io import to_dict
from detr.evaluation import STATS, evaluate_coco
from detr.inference.evaluate import main
from detr.models import build_model

OBJECTS = [[(1, [10, 10, 20, 15]), (2, [30, 5, 12, 30])], [], [(2, [0, 0, 30, 40])]]
SIZES = ["--image-size", "40", "--max-size", "60", "--num-workers", "0"]


@pytest.fixture
def checkpoint(tmp_path, tiny_model):
    """Write a random model in the official format."""

    def save(**changes):
        model = build_model(tiny_model(num_heads=8, **changes))
        torch.nn.init.normal_(model.class_embed.weight)
        model.class_embed.bias.data[[0, *range(3, model.num_classes)]] = -20.0  # find classes 1 and 2 alone
        torch.save({"model": model.state_dict()}, tmp_path / "tiny.pth")
        return tmp_path / "tiny.pth"

    return save


def run(capsys, *arguments):
    """Exit code, standard output and error of the command."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def files(root):
    return "--annotations", root / "annotations.json", "--images", root / "images"


def test_json_predictions_and_metrics_agree(checkpoint, write_coco, tmp_path, capsys):
    root = write_coco(OBJECTS)
    target = tmp_path / "found.json"
    arguments = ("--checkpoint", checkpoint(), *files(root), *SIZES, "--predictions", target, "--json")
    code, out, errors = run(capsys, *arguments)
    assert (code, errors) == (0, "")
    result = json.loads(out)
    found = json.loads(target.read_text())
    assert len(found) == 3 * 5
    assert {d["category_id"] for d in found} <= {1, 2}  # of three classes, 0 to 2: raw
    assert result["metrics"] == pytest.approx(evaluate_coco(root / "annotations.json", found))
    assert {*STATS, "AP/class 1", "AP/class 2"} == result["metrics"].keys()
    assert result["settings"] == {
        "images": 3, "labels": "raw", "image_size": 40, "max_size": 60,
        "area_limits": [1024.0, 9216.0], "batch_size": 8, "pad_to": 1, "backend": "pycocotools",
    }  # fmt: skip
    findings = {f["name"]: f for f in result["findings"]}
    assert findings["images with predictions"]["passed"] is True
    assert findings["AP against APS, APM, APL"]["passed"] is None
    assert result["losses"]["loss_ce"] > 0


def test_tables(checkpoint, write_coco, capsys):
    code, out, _ = run(capsys, "--checkpoint", checkpoint(), *files(write_coco(OBJECTS)), *SIZES)
    assert code == 0
    assert all(key in out for key in STATS)
    assert "class 2" in out
    assert "does not apply" in out


def test_labels_count_the_categories_when_that_fits(checkpoint, write_coco, tmp_path, capsys):
    root = write_coco([[(7, [1, 1, 9, 9]), (90, [5, 5, 20, 20])]], categories=(7, 30, 90))
    target = tmp_path / "found.json"
    code, out, _ = run(capsys, "--checkpoint", checkpoint(), *files(root), *SIZES, "--predictions", target, "--json")
    assert code == 0
    assert json.loads(out)["settings"]["labels"] == "contiguous"
    assert {d["category_id"] for d in json.loads(target.read_text())} <= {7, 30, 90}


def test_a_model_may_know_more_ids_than_the_annotations(checkpoint, write_coco, capsys):
    path, root = checkpoint(num_classes=91), write_coco(OBJECTS)
    code, _, errors = run(capsys, "--checkpoint", path, *files(root), *SIZES)
    assert code == 2
    assert "give --labels raw" in errors
    code, out, _ = run(capsys, "--checkpoint", path, *files(root), *SIZES, "--labels", "raw", "--json")
    assert code == 0
    assert json.loads(out)["settings"]["labels"] == "raw"


def test_the_settings_of_a_run_are_taken_and_can_be_changed(tiny_model, write_coco, tmp_path, capsys):
    root = write_coco(OBJECTS)
    config = RunConfig(model=tiny_model(num_classes=None), evaluation=EvaluationConfig((100.0, 300.0), batch_size=2))
    config = replace(config, data=replace(config.data, image_size=40, max_size=60))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    save_weights(tmp_path / "best.safetensors", build_model(tiny_model(num_classes=2)))
    arguments = ("--checkpoint", tmp_path / "best.safetensors", *files(root), "--num-workers", 0, "--json")
    settings = json.loads(run(capsys, *arguments)[1])["settings"]
    assert (settings["labels"], settings["image_size"], settings["area_limits"]) == ("contiguous", 40, [100, 300])
    changed = (*arguments, "--area-limits", 50, 60, "--batch-size", 1, "--pad-to", 16)
    settings = json.loads(run(capsys, *changed)[1])["settings"]
    assert (settings["area_limits"], settings["batch_size"], settings["pad_to"]) == ([50, 60], 1, 16)


def test_a_backend_that_lacks_is_told_before_anything_is_detected(checkpoint, write_coco, monkeypatch, capsys):
    arguments = ("--checkpoint", checkpoint(), *files(write_coco(OBJECTS)), *SIZES, "--backend", "faster-coco-eval")
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0 and json.loads(out)["settings"]["backend"] == "faster-coco-eval"
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.delattr("detr.inference.evaluate.predict_dataset")
    code, _, errors = run(capsys, *arguments)
    assert code == 2 and "pip install faster-coco-eval" in errors


def test_wrong_input_ends_with_code_2_and_one_line(checkpoint, write_coco, tmp_path, capsys):
    root = write_coco(OBJECTS)
    path = checkpoint()
    good = ("--checkpoint", path, *files(root), *SIZES)
    (tmp_path / "gap").mkdir()
    cases = {
        "no such checkpoint file": ("--checkpoint", tmp_path / "absent.pth", *good[2:]),
        "no such annotation file": (*good, "--annotations", tmp_path / "absent.json"),
        "no such folder": (*good, "--images", tmp_path / "absent"),
        "the image file is missing": (*good, "--images", tmp_path / "gap"),
        "would overwrite an input": (*good, "--predictions", root / "annotations.json"),
        "must be a file in a folder that exists": (*good, "--predictions", tmp_path / "absent/found.json"),
        "labels=contiguous: the model has 3 classes, the annotations have 2": (*good, "--labels", "contiguous"),
        "evaluation.area_limits": (*good, "--area-limits", 9, 3),
        "evaluation.batch_size=0": (*good, "--batch-size", 0),
        "data.num_workers=-1": (*good, "--num-workers", -1),
    }
    for reason, arguments in cases.items():
        code, out, errors = run(capsys, *arguments)
        assert (code, out) == (2, ""), reason
        assert reason in errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
    assert json.loads((root / "annotations.json").read_text())["images"]
