"""`detr-predict`: from official and own checkpoints to pictures, tables and JSON."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_weight

from detr.checkpoint import save_weights
from detr.coco_names import COCO_NAMES, NUM_LABELS
from detr.config import ModelConfig, RunConfig
from detr.config_io import to_dict
from detr.criterion import SetCriterion
from detr.data.coco import CocoDetection
from detr.errors import InputError
from detr.evaluation import predict_dataset, validation_loader
from detr.inference.architecture import infer_model_config
from detr.inference.detector import add_checkpoint_arguments, open_detector
from detr.inference.predict import main
from detr.models import build_model

SIZES = ["--image-size", "40", "--max-size", "60"]


@pytest.fixture
def save_official(tmp_path, tiny_model):
    """Write a random model as the official training script does; returns the file and the model."""

    def save(name="tiny.pth", arguments=True, **changes):
        config = tiny_model(**changes)
        model = build_model(config).eval()
        torch.nn.init.normal_(model.class_embed.weight)  # scores that differ
        args = {"args": argparse.Namespace(nheads=config.num_heads, dilation=config.dilation, lr=1e-4)}
        torch.save({"model": model.state_dict(), "epoch": 1} | (args if arguments else {}), tmp_path / name)
        return tmp_path / name, model

    return save


@pytest.fixture
def image(tmp_path):
    """A picture of 300 x 400 pixels."""
    path = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 80, (300, 400, 3), dtype=np.uint8)).save(path)
    return path


def run(capsys, *arguments):
    """Exit code, standard output and error of the command."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def detector_of(path, *arguments):
    parser = argparse.ArgumentParser()
    add_checkpoint_arguments(parser)
    return open_detector(parser.parse_args(["--checkpoint", str(path), "--device", "cpu", *map(str, arguments)]))


# the architecture from the weights


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(backbone="resnet101", num_classes=250, num_queries=300),
        ModelConfig(backbone="resnet34", norm="pre", hidden_dim=128, dim_feedforward=512),
        ModelConfig(backbone="resnet18", num_encoder_layers=3, num_decoder_layers=2, position_embedding="learned"),
        ModelConfig(backbone="resnet18", num_encoder_layers=0),
        ModelConfig(backbone="small", pretrained=False, backbone_width=16, backbone_stride=16),
        ModelConfig(backbone="small", pretrained=False, backbone_stride=8, backbone_norm="batch", norm="pre"),
    ],
)
def test_every_choice_that_weights_can_tell_is_read_from_them(config):
    config = replace(config, pretrained=False)
    with torch.device("meta"):
        state = build_model(config).state_dict()
    assert infer_model_config(state) == config


def test_weights_of_something_else_are_refused(tiny_model):
    state = build_model(tiny_model()).state_dict()
    with pytest.raises(InputError, match=r"no DETR: it lacks class_embed\.weight"):
        infer_model_config({f"detr.{name}": tensor for name, tensor in state.items()})
    with pytest.raises(InputError, match="has the shape"):
        infer_model_config(state | {"class_embed.weight": torch.zeros(3)})
    with pytest.raises(InputError, match="num_heads=3"):
        infer_model_config(state, num_heads=3)
    with pytest.raises(InputError, match="36 blocks in layer3"):
        resnet152 = {f"backbone.0.body.layer3.{i}.conv3.weight": torch.zeros(1) for i in range(36)}
        transformer = {name: tensor for name, tensor in state.items() if not name.startswith("backbone")}
        infer_model_config(transformer | resnet152)


def test_what_the_weights_cannot_tell_comes_from_the_saved_options_or_flags(save_official):
    path, model = save_official()  # two heads
    images, mask = torch.rand(1, 3, 40, 60), torch.zeros(1, 40, 60, dtype=torch.bool)
    expected = model(images, mask)["pred_logits"]
    assert torch.equal(detector_of(path).model(images, mask)["pred_logits"], expected)
    path, _ = save_official("bare.pth", arguments=False)
    assert detector_of(path).model_config.num_heads == 8
    assert detector_of(path, "--num-heads", 4).model_config.num_heads == 4


def test_a_name_with_dc5_asks_for_the_flag(save_official, caplog):
    path, _ = save_official("detr-r50-dc5.pth", arguments=False)
    detector_of(path)
    assert "--dilation" in caplog.text


def test_sizes_default_to_the_official_ones(save_official):
    path, _ = save_official()
    data = detector_of(path).data
    assert (data.image_size, data.max_size) == (800, 1333)
    assert detector_of(path, "--image-size", 480).data.max_size == 800


# runs


@pytest.fixture
def run_directory(tmp_path, tiny_model):
    """A run's best weights with its configuration beside."""

    def build(**groups):
        folder = tmp_path / "run"
        folder.mkdir()
        config = RunConfig(model=tiny_model(num_classes=None, norm="pre"))
        config = replace(config, **{k: replace(getattr(config, k), **v) for k, v in groups.items()})
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        model = build_model(replace(config.model, num_classes=3)).eval()
        save_weights(folder / "best.safetensors", model)
        return folder

    return build


def test_the_configuration_of_a_run_is_taken(run_directory, image, capsys):
    folder = run_directory(data={"name": "shapes", "image_size": 48, "max_size": 64})
    detector = detector_of(folder / "best.safetensors")
    assert detector.model_config.num_heads == 2
    assert detector.model_config.num_classes == 3
    assert (detector.data.image_size, detector.data.max_size) == (48, 64)
    arguments = ("--checkpoint", folder / "best.safetensors", "--threshold", 0, "--output", folder / "out", "--json")
    code, out, _ = run(capsys, image, *arguments)
    assert code == 0
    assert {d["class"] for d in json.loads(out)[0]["detections"]} <= {"ellipse", "rectangle", "triangle"}


def test_a_checkpoint_of_a_run_finds_the_configuration_above(run_directory):
    folder = run_directory(data={"image_size": 48})
    step = folder / "checkpoints/step-00000003"
    step.mkdir(parents=True)
    weights = (folder / "best.safetensors").rename(step / "model.safetensors")
    assert detector_of(weights).data.image_size == 48


def test_a_configuration_of_another_program_is_left_alone(run_directory):
    folder = run_directory()
    (folder / "config.json").write_text('{"architectures": ["DetrForObjectDetection"]}')
    assert detector_of(folder / "best.safetensors").run is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not a JSON file"), ('{"model": {"num_head": 2}, "data": {}, "train": {}}', "did you mean model.num_heads")],
)
def test_a_broken_configuration_is_named(run_directory, text, reason):
    folder = run_directory()
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        detector_of(folder / "best.safetensors")


def test_a_configuration_of_other_weights_is_named(run_directory):
    folder = run_directory(model={"num_classes": 7})
    with pytest.raises(InputError, match="class head is not for the 7 classes"):
        detector_of(folder / "best.safetensors")


# detections


def test_detections_are_those_of_the_evaluation(save_official, write_coco, coco_config):
    root = write_coco([[(1, [10, 10, 20, 15])]], categories=(0, 1, 2))
    config = coco_config(root)
    dataset = CocoDetection(root / "annotations.json", root / "images", config, train=False)
    path, _ = save_official()
    detector = detector_of(path, *SIZES)
    loader = validation_loader(dataset, config, detector.evaluation)
    expected, _ = predict_dataset(detector.model, loader, SetCriterion(3), torch.device("cpu"))
    expected = sorted(expected, key=lambda d: -d["score"])
    image = torch.from_numpy(np.array(Image.open(root / "images/1.png"))).permute(2, 0, 1)
    result = detector.detect(image)
    assert result["scores"].tolist() == pytest.approx([d["score"] for d in expected], abs=1e-6)
    boxes = result["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    assert torch.allclose(boxes, torch.tensor([d["bbox"] for d in expected]), atol=1e-3)


def test_picture_and_json(save_official, image, tmp_path, capsys):
    path, _ = save_official()
    out = tmp_path / "new/out"
    arguments = ("--checkpoint", path, *SIZES, "--output", out, "--json")
    code, text, errors = run(capsys, image, *arguments, "--threshold", 0)
    assert (code, errors) == (0, "")
    (entry,) = json.loads(text)
    assert (entry["width"], entry["height"], entry["image"]) == (400, 300, str(image))
    found = entry["detections"]
    assert len(found) == 5
    assert [d["score"] for d in found] == sorted((d["score"] for d in found), reverse=True)
    assert all(d["class"] == str(d["label"]) and d["category_id"] is None for d in found)  # names unknown
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (image, entry["picture"]))
    assert after.shape == before.shape
    for detection in found:
        left, top, right, bottom = (round(v) for v in np.clip(detection["box"], 3, [396, 296, 396, 296]))
        row, column = (top + bottom) // 2, (left + right) // 2
        for y, x in ((row, left), (row, right), (top, column), (bottom, column)):  # the four sides
            window = slice(y - 3, y + 4), slice(x - 3, x + 4)
            assert (after[window] != before[window]).any()

    code, text, _ = run(capsys, image, *arguments, "--threshold", 1)
    assert (code, json.loads(text)[0]["detections"]) == (0, [])
    assert (np.asarray(Image.open(entry["picture"])) == before).all()


def test_table_and_class_names_of_annotations(save_official, image, write_coco, tmp_path, capsys):
    root = write_coco([[]], categories=(4, 9, 11))
    path, _ = save_official()
    arguments = ("--checkpoint", path, *SIZES, "--threshold", 0, "--output", tmp_path / "out")
    code, text, _ = run(capsys, image, *arguments, "--annotations", root / "annotations.json")
    assert code == 0
    assert "5 detections, drawn to" in text
    assert any(f"class {c}" in text for c in (4, 9, 11))  # three labels, three ids: contiguous
    code, _, errors = run(capsys, image, *arguments, "--annotations", root / "annotations.json", "--labels", "raw")
    assert code == 2
    assert "ids up to 11" in errors


def test_raw_labels_are_category_ids(save_official, image, write_coco, tmp_path, capsys):
    root = write_coco([[]], categories=(1, 2))
    path, _ = save_official()  # three classes: ids 0 to 2
    arguments = ("--checkpoint", path, *SIZES, "--threshold", 0, "--output", tmp_path / "out", "--json")
    _, text, _ = run(capsys, image, *arguments, "--annotations", root / "annotations.json")
    for detection in json.loads(text)[0]["detections"]:
        known = detection["label"] in (1, 2)
        assert detection["category_id"] == (detection["label"] if known else None)
        assert detection["class"] == (f"class {detection['label']}" if known else "0")


def test_91_classes_have_the_names_of_coco(save_official, image, tmp_path, capsys):
    path, _ = save_official(num_classes=91)
    _, text, _ = run(capsys, image, "--checkpoint", path, *SIZES, "--threshold", 0, "--output", tmp_path, "--json")
    for detection in json.loads(text)[0]["detections"]:
        assert detection["class"] == COCO_NAMES.get(detection["label"], str(detection["label"]))


def test_names_of_coco_are_those_of_torchvision():
    reference = get_weight("FasterRCNN_ResNet50_FPN_Weights.COCO_V1").meta["categories"]
    assert len(reference) == NUM_LABELS
    assert {i: n for i, n in enumerate(reference) if n not in ("N/A", "__background__")} == COCO_NAMES


# files


def test_images_of_one_name_get_pictures_of_their_own(save_official, image, tmp_path, capsys):
    twin = tmp_path / "twin/scene.png"
    twin.parent.mkdir()
    twin.write_bytes(image.read_bytes())
    path, _ = save_official()
    code, text, _ = run(capsys, image, twin, "--checkpoint", path, *SIZES, "--output", tmp_path / "out", "--json")
    assert code == 0
    pictures = [Path(entry["picture"]) for entry in json.loads(text)]
    assert [p.name for p in pictures] == ["scene-detections.png", "scene-detections-2.png"]
    assert all(p.is_file() for p in pictures)


def test_pictures_go_to_the_working_directory(save_official, image, tmp_path, capsys, monkeypatch):
    path, _ = save_official()
    monkeypatch.chdir(tmp_path)
    assert run(capsys, image, "--checkpoint", path, *SIZES)[0] == 0
    assert (tmp_path / "scene-detections.png").is_file()


def test_an_input_is_never_overwritten(save_official, image, tmp_path, capsys):
    path, _ = save_official()
    before = image.read_bytes()
    (tmp_path / "link.png").symlink_to(image)
    for output in (image, tmp_path / "link.png"):
        code, _, errors = run(capsys, image, "--checkpoint", path, *SIZES, "--output", output)
        assert code == 2
        assert "would overwrite an input" in errors
    earlier = tmp_path / "scene-detections.png"  # an input that bears the name of a picture
    earlier.write_bytes(before)
    code, _, _ = run(capsys, image, earlier, "--checkpoint", path, *SIZES, "--output", tmp_path)
    assert code == 2
    assert image.read_bytes() == earlier.read_bytes() == before


def test_wrong_input_ends_with_code_2_and_one_line(save_official, image, tmp_path, capsys):
    path, _ = save_official()
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:500])
    (tmp_path / "text.pth").write_text("no checkpoint")
    good = (image, "--checkpoint", path, *SIZES, "--output", tmp_path / "out")
    cases = {
        "the image file is missing": (tmp_path / "absent.png", *good[1:]),
        "broken.png: ": (tmp_path / "broken.png", *good[1:]),
        "no such checkpoint file": (image, "--checkpoint", tmp_path / "absent.pth"),
        "not a checkpoint": (image, "--checkpoint", tmp_path / "text.pth"),
        "--threshold 1.5: must be in 0..1": (*good, "--threshold", 1.5),
        "--threshold nan": (*good, "--threshold", "nan"),
        "names one picture for 2 images": (image, *good[:-1], tmp_path / "one.png"),
        "does not divide": (*good, "--num-heads", 3),
        "cannot be used": (*good, "--device", "abacus"),
        "no such annotation file": (*good, "--annotations", tmp_path / "absent.json"),
        "data.image_size=0": (*good, "--image-size", 0),
    }
    for reason, arguments in cases.items():
        code, out, errors = run(capsys, *arguments)
        assert (code, out) == (2, ""), reason
        assert reason in errors
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "detr.inference.predict", "--help"], capture_output=True, text=True, check=True
    )
    assert "--threshold" in done.stdout
