"""The doctor names every fault in one pass, refuses exactly what training refuses, and never stumbles."""

import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import detr.doctor.command
import detr.doctor.trials
import detr.step
from detr.config import DataConfig, RunConfig
from detr.config_io import to_dict
from detr.data.coco import CocoDetection
from detr.doctor.checks import audit, enough_queries
from detr.doctor.contact_sheet import draw_sheet
from detr.doctor.trials import measure_speed, overfit
from experiments.doctor import PRESETS, main

ROOT = Path(__file__).resolve().parents[3]
BCCD = ROOT.parent / "shared/data/bccd"
SMALL = PRESETS.models["small"]()
CONFIG = replace(SMALL, data=replace(SMALL.data, image_size=40, max_size=60))
GOOD = [[(1, [5, 5, 12, 12]), (2, [20, 10, 35, 28])], [(1, [0, 0, 60, 40])], [(2, [3, 4, 11, 20])], []]


def arguments(root, *more):
    """The command's, for a folder of `write_coco` with its one file as both splits."""
    paths = {"root": root, "train-annotations": "annotations.json", "train-images": "images"}
    return [*(str(x) for key, value in paths.items() for x in (f"--{key}", value)), *map(str, more)]


def rewrite(root, change):
    path = root / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def examine(root, val=None, config=CONFIG):
    splits = {"train": (root / "annotations.json", root / "images")}
    if val:
        splits["val"] = (val / "annotations.json", val / "images")
    return audit(splits, config)


def found(result, split="train"):
    """ids by check; several findings of a check together."""
    ids = {}
    for finding in result.findings:
        if finding.split == split:
            ids.setdefault(finding.check, []).extend(finding.ids)
    return ids


def refused(root, config=CONFIG):
    """Whether training refuses the folder."""
    try:
        dataset = CocoDetection(root / "annotations.json", root / "images", config.data, train=True)
        list(dataset.verify_images())
    except Exception:
        return True
    return False


def spoil(content):
    """One of every fault that a file of `GOOD` can have."""
    images, objects, categories = content["images"], content["annotations"], content["categories"]
    template = {"image_id": 1, "category_id": 1, "bbox": [6, 6, 12, 12], "area": 50, "iscrowd": 0}
    faults = {
        100: {"bbox": [5, 5, 0, 9]},
        101: {"bbox": [70, 5, 9, 9]},
        102: {"bbox": [50, 5, 20, 9]},
        103: {"bbox": [5, 5, float("nan"), 9]},
        104: {"bbox": [5, 5, 9]},
        105: {"bbox": "5 5 9 9"},
        106: {"image_id": 77},
        107: {"category_id": 77},
        108: {"area": 500},
        109: {"area": -1},
        110: {"area": float("inf")},
        111: {"iscrowd": 2},
        112: {"image_id": "1"},
        113: {"bbox": [0, 0, 30, 30], "iscrowd": 1},
        114: {"bbox": [9, 9, 9, 9]},
        115: {"bbox": [9, 9, 9, 9]},
        116: {"bbox": [33, 5, 1, 1], "area": 1},
    }
    objects += [template | {"id": id_, "image_id": 1} | change for id_, change in faults.items()]
    objects += [template | {"id": 116}, template | {"id": 2.5}, {"id": 117}, "no record"]
    shared = {"width": 60, "height": 40}
    images += [
        shared | {"id": 10, "file_name": "nowhere.png"},
        shared | {"id": 11, "file_name": "text.png"},
        {"id": 12, "file_name": "3.png", "width": 61, "height": 40},
        shared | {"id": 13, "file_name": "../out.png"},
        shared | {"id": 14, "file_name": "copy.png"},
        shared | {"id": 1, "file_name": "4.png"},
        {"id": 15, "file_name": "4.png", "width": "60", "height": -1},
    ]
    categories += [{"id": 3, "name": "class 1"}, {"id": 4, "name": "absent"}, {"id": 1, "name": ""}]


def test_every_fault_is_named_in_one_pass(write_coco):
    root, val = write_coco(GOOD), write_coco([[(1, [5, 5, 12, 12])]], name="val")
    rewrite(root, spoil)
    images = root / "images"
    (images / "text.png").write_text("not an image")
    shutil.copy(images / "2.png", images / "copy.png")
    shutil.copy(images / "2.png", root / "out.png")
    (images / "unlisted.png").write_bytes(b"")
    config = replace(CONFIG, model=replace(CONFIG.model, num_queries=2, num_classes=1))
    result = examine(root, val, config)
    ids = found(result)
    expected = {
        "no-extent": [100], "outside": [101], "over-border": [102], "not-finite": [103, 110],
        "unknown-image_id": [106], "unknown-category_id": [107], "area-too-large": [108], "crowd": [113],
        "duplicate-box": [109, 110, 111, 115, 116, "annotations[22]"], "duplicate-name": ["class 1"],
        "absent-class": ["class 1 (3)", "absent"],
        "missing-file": ["nowhere.png"], "unreadable": ["text.png"], "wrong-size": ["3.png (60 x 40)"],
        "leads-out": ["../out.png"], "same-content": ["copy.png = 2.png"], "unlisted": ["unlisted.png"],
        "too-few-queries": [1], "duplicate-file": ["3.png", "4.png"], "empty-stratum": ["large"],
    }  # fmt: skip
    for check, wanted in expected.items():
        assert ids[check] == wanted, check
    assert set(ids["duplicate-id"]) == {1, 116}
    assert {104, 105, 109, 111, 112, 15} <= set(ids["wrong-value"])
    assert {117, "annotations[24]"} <= set(ids["lacks-key"])
    assert {4, 10} <= set(ids["empty-image"])
    assert 116 in ids["below-cell"]
    assert {1, 2, 3, 4} <= set(ids["no-area"])
    both = found(result, "both")
    assert both["categories"] == [3, 4]
    sizes = [s for s, _ in result.advice if s.startswith("data.image_size")]
    assert sizes and int(sizes[0].split()[0].split("=")[1]) > config.data.image_size
    assert both["shared-image"] == ["1.png"] and both["num-classes"] == ["model.num_classes"]
    assert all(finding.remedy and finding.count == len(finding.ids) for finding in result.findings)
    assert [f.severity for f in result.findings] == sorted((f.severity for f in result.findings),
                                                           key=["error", "warning", "note"].index)  # fmt: skip


def test_a_clean_folder_has_no_error(write_coco, capsys):
    root = write_coco(GOOD)
    result = examine(root)
    assert result.num_errors == 0
    assert set(found(result)) == {"empty-image", "no-area", "empty-stratum"}
    assert result.census["train"].classes == {"class 1": 2, "class 2": 2}
    assert result.census["train"].strata == (3, 1, 0) and result.census["train"].most_objects == 2
    assert main(arguments(root)) == 0
    assert "0 errors" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"images": 3, "annotations": {}, "categories": null}', "\ud800"]
)
def test_files_of_another_kind_are_errors(write_coco, text):
    root = write_coco(GOOD)
    (root / "annotations.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert examine(root).num_errors >= 1
    assert main(arguments(root, "--json", "--sheet", root / "sheet.png", "--overfit", "--speed")) == 1


VALUES = [None, True, -1, 0, 1, 2, 2**60, 10**400, 0.5, 1e308, float("nan"), float("-inf"), "", "1", "1.png", "\ud800",
          "a\0b", "x" * 5000, "..", ".", "[bold]", [], [1], [1, 2, 3, 4], [-9, -9, 99, 99], [0, 0, 1e9, 1e9], [[]], {}, {"id": 1}]  # fmt: skip  # noqa: E501


def mutate(content, rng):
    """Change, drop, add or copy something anywhere."""
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.85:
            node = node[key]
            continue
        break
    action = rng.choice(["set", "set", "set", "drop", "copy"])
    if action == "set":
        node[key] = copy.deepcopy(rng.choice(VALUES))
    elif action == "drop":
        del node[key]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[key]))


def test_mutated_files_are_refused_exactly_when_training_refuses_them(write_coco, capsys):
    root = write_coco(GOOD[:2])
    path, rng = root / "annotations.json", random.Random(0)
    whole = json.loads(path.read_text())
    for annotation in whole["annotations"]:
        annotation |= {"area": 50, "iscrowd": 0}
    outcomes = []
    for trial in range(400):
        content = copy.deepcopy(whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            mutate(content, rng)
        path.write_text(json.dumps(content))
        result = examine(root)
        outcomes.append(refused(root))
        assert (result.num_errors > 0) == outcomes[-1], (content, result.findings)
        if trial % 10 == 0:
            draw_sheet(result, root / "sheet.png", 2)
            assert main(arguments(root, *(["--json"] if trial % 20 else []))) == outcomes[-1]
            assert "Traceback" not in capsys.readouterr().err
    assert 50 < sum(outcomes) < 380


def test_damaged_texts_do_not_stop_it(write_coco):
    root = write_coco(GOOD[:2])
    path, rng = root / "annotations.json", random.Random(1)
    whole = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        assert (examine(root).num_errors > 0) == refused(root)


def test_boxes_are_judged_as_training_judges_them(write_coco):
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-30, 60, (200, 2)).round(1).tolist()
    sides = rng.uniform(-3, 40, (200, 2)).round(0).tolist()
    root = write_coco([[(1, [*a, *b]) for a, b in zip(boxes, sides, strict=True)]])
    ids, judged = found(examine(root)), CocoDetection(root / "annotations.json", root / "images", CONFIG.data, True)
    assert sorted(ids["no-extent"] + ids["outside"]) == judged.findings.degenerate
    assert ids["over-border"] == judged.findings.clamped
    assert examine(root).census["train"].objects == len(judged.labels[0])


def test_upright_and_stored_pixels_both_fit(write_coco):
    root = write_coco(GOOD[:1])
    turned = Image.new("RGB", (40, 60))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "images/1.png", exif=exif)
    assert examine(root).num_errors == 0  # 60 x 40 when put upright
    rewrite(root, lambda content: content["images"][0].update(width=40, height=60))
    assert examine(root).num_errors == 0


def test_advice_fits_the_data(write_coco):
    crowded = [[(1, [x, y, 2, 2 + x / 20]) for x in range(0, 60, 5) for y in (0, 20)]]
    result = examine(write_coco(crowded))
    settings = dict(result.advice)
    assert settings.keys() >= {"model.num_queries=30", "data.image_size=80 data.max_size=120"}
    limits = json.loads(next(s for s in settings if "area_limits" in s).split("=")[1])
    again = replace(CONFIG, evaluation=replace(CONFIG.evaluation, area_limits=tuple(limits)))
    assert 0 not in examine(write_coco(crowded, name="again"), config=again).census["train"].strata
    assert (enough_queries(0), enough_queries(8), enough_queries(30), enough_queries(63)) == (10, 10, 40, 80)


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not on this machine")
def test_bccd():
    result = audit({s: (BCCD / f"annotations/instances_{s}.json", BCCD / s) for s in ("train", "val")}, SMALL)
    assert result.num_errors == 0
    assert found(result)["no-extent"] == [3153, 3197]
    assert "model.num_queries=40" in dict(result.advice)
    assert result.census["train"].objects == 3941 and result.census["val"].objects == 945


def test_the_sheet_shows_faulty_boxes(write_coco, tmp_path):
    root = write_coco([*GOOD, [(1, [30, 20, 0, 0])]])
    path = tmp_path / "sheet.png"
    assert draw_sheet(examine(root), path, 4) == 4
    pixels = np.asarray(Image.open(path))
    assert pixels.shape[1] == 4 * 324
    assert (pixels == (255, 0, 0)).all(2)[18:240, :320].any()  # the first tile holds the fault


@pytest.fixture
def learnable(write_coco, tiny_model):
    """A folder of bright rectangles, and settings that learn it in seconds."""
    rng = np.random.default_rng(0)
    boxes = [[int(v) for v in (rng.integers(0, 30), rng.integers(0, 20), 20, 16)] for _ in range(4)]
    root = write_coco([[(1 + i % 2, box)] for i, box in enumerate(boxes)])
    for i, (x, y, w, h) in enumerate(boxes, start=1):
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels[y : y + h, x : x + w] = (255, 60, 0) if i % 2 else (0, 60, 255)
        Image.fromarray(pixels).save(root / f"images/{i}.png")
    names = {"train_annotations": "annotations.json", "val_annotations": "annotations.json"}
    data = DataConfig(root=str(root), train_images="images", val_images="images", image_size=40, max_size=60, **names)
    model = tiny_model(hidden_dim=32, num_classes=None, position_embedding="learned")
    return replace(SMALL, model=model, data=replace(data, num_workers=0), train=replace(SMALL.train, batch_size=4))


def test_overfitting_passes_and_a_blind_model_fails(learnable, monkeypatch):
    result = overfit(learnable, 300, 3e-3)
    assert result.passed and 0 < result.steps < 300
    assert result.images == 4 and result.loss_after < 0.4 * result.loss_before

    monkeypatch.setattr(detr.step, "normalize", lambda images, _mask: torch.zeros(images.shape))  # it is blind
    result = overfit(learnable, 100, 3e-3)
    assert not result.passed and result.steps == 100


def test_a_diverging_model_fails(learnable):
    assert not overfit(learnable, 20, 1e30).passed


def test_speed(learnable):
    speed = measure_speed(learnable, 1, seconds=0.1)
    assert speed.loading.keys() == speed.together.keys() == {0, 1}
    assert speed.limit in ("loading", "computing") and speed.num_workers in (0, 1)
    assert all(0 < together <= max(*speed.loading.values(), speed.computing) for together in speed.together.values())


def test_slow_loading_is_named(learnable, monkeypatch):
    monkeypatch.setattr(detr.doctor.trials, "_loading", lambda setup, workers, seconds: 5.0 + 40 * workers)
    monkeypatch.setattr(detr.doctor.trials, "_computing", lambda setup, seconds: 100.0)
    monkeypatch.setattr(detr.doctor.trials.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    assert (speed := measure_speed(learnable, 1)).limit == "loading" and speed.num_workers == 1


def test_the_whole_command(learnable, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        detr.doctor.command, "measure_speed", lambda config, workers: measure_speed(config, workers, 0.1)
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_dict(replace(learnable, optim=replace(learnable.optim, lr=3e-3)))))
    options = [
        "--config",
        str(config),
        "--overfit",
        "--speed",
        "--num-workers",
        "0",
        "--sheet",
        str(tmp_path / "s.png"),
    ]
    assert main([*options, "--json", "--device", "cpu"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["overfit"]["passed"] and content["speed"]["limit"]
    assert content["counts"]["error"] == 0 and content["census"]["val"]["images"] == 4
    assert main([*options, "--overfit-steps", "1"]) == 1
    assert "failed" in capsys.readouterr().out
    assert (tmp_path / "s.png").stat().st_size > 0


def test_wrong_usage(write_coco, tmp_path, capsys):
    root = write_coco(GOOD)
    (tmp_path / "list.json").write_text("[]")
    wrong = [
        [],
        ["--root", tmp_path / "nowhere"],
        ["--root", root],
        ["--root", root, "--train-annotations", "annotations.json"],
        arguments(root, "--val-annotations", "nowhere.json", "--val-images", "images"),
        arguments(root, "--sheet", tmp_path),
        arguments(root, "--sheet", root / "annotations.json"),
        arguments(root, "--overfit-steps", 0),
        arguments(root, "--num-workers", -1),
        arguments(root, "--image-size", 0),
        arguments(root, "--num-queries", 0),
        arguments(root, "--area-limits", 5, 5),
        arguments(root, "--device", "abacus"),
        ["--config", tmp_path / "nowhere.json"],
        ["--config", tmp_path / "list.json"],
    ]
    for options in wrong:
        expected = 0 if "--device" in options else 2  # nothing runs on it
        assert main([str(x) for x in options]) == expected, options
        assert expected == 0 or capsys.readouterr().err.strip().startswith("error: ")


def test_presets_are_composed_from_the_experiments_files():
    small = yaml.safe_load((ROOT / "experiments/conf/model/small.yaml").read_text())
    assert replace(RunConfig().model, **small["model"], num_classes=None) == SMALL.model
    assert small["optim"]["backbone_lr_ratio"] == SMALL.optim.backbone_lr_ratio
    assert replace(RunConfig().train, **small["train"]) == SMALL.train
    assert SMALL.data.name == "coco" and SMALL.optim.lr == 1e-3 and SMALL.data.image_size == 128
    shapes, given = PRESETS.shapes(), yaml.safe_load((ROOT / "experiments/conf/data/shapes.yaml").read_text())
    assert replace(DataConfig(), **given["data"]) == shapes.data
    assert list(shapes.evaluation.area_limits) == given["evaluation"]["area_limits"]
    assert PRESETS.models["detr_r50"]().model == replace(RunConfig().model, num_classes=None)
