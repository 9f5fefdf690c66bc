"""Every example trains, and a run with it resumes bit by bit."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from detr.checkpoint import checkpoints, load_checkpoint, read_weights
from detr.config import DataConfig, EvaluationConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig
from detr.data import split_paths
from detr.data.coco import load_annotations
from detr.setup import prepare
from detr.train import Record, train
from examples.hit_rate import hit_rate

CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "model": {"model": {"target": "examples.grid_detector:GridDetector", "options": {"cells": 3}}},
    "sgd": {"optim": {"target": "torch.optim:SGD", "options": {"momentum": 0.9}}},
    "muon": {"optim": {"target": "examples.muon:MuonWithAdamW"}},
    "schedule-free": {"optim": {"target": "examples.schedule_free:ScheduleFreeAdamW"}},
    "augmentation": {"data": {"transform": "examples.colour_jitter:colour_jitter"}},
    "metric": {"evaluation": {"extra": "examples.hit_rate:hit_rate"}},
}


@pytest.fixture
def run_of(tmp_path) -> Callable[..., RunConfig]:
    """Build a run of four steps on eight drawn scenes; keywords are settings by group."""

    def build(**groups: dict[str, Any]) -> RunConfig:
        drawn = {"name": "shapes", "root": str(tmp_path / "shapes"), "shapes_image_size": 32}
        drawn |= {"shapes_num_train": 8, "shapes_num_val": 4, "image_size": 32, "max_size": 64, "num_workers": 0}
        small = {"backbone": "small", "backbone_width": 8, "pretrained": False, "num_classes": None}
        small |= {"hidden_dim": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 2}
        small |= {"dim_feedforward": 32, "num_queries": 6}
        return RunConfig(
            model=ModelConfig(**small | groups.get("model", {})),
            data=DataConfig(**drawn | groups.get("data", {})),
            optim=OptimConfig(**{"lr": 1e-3} | groups.get("optim", {})),
            schedule=ScheduleConfig(horizon="4 steps"),
            train=TrainConfig(batch_size=2, accumulate=2, device="cpu", evaluations=2, update_ratio_steps=2),
            evaluation=EvaluationConfig(**groups.get("evaluation", {})),
        )

    return build


def untimed(records: list[Record]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.metrics.items() if k not in CLOCKS} for record in records]


def leaves(state: Any) -> list:
    """Values of nested dicts and lists, in order."""
    if isinstance(state, dict | list):
        return [leaf for value in (state.values() if isinstance(state, dict) else state) for leaf in leaves(value)]
    return [state]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_with_it_resumes_exactly(run_of, tmp_path, name):
    config, directories = run_of(**EXAMPLES[name]), (tmp_path / "whole", tmp_path / "parts")
    for directory in directories:
        directory.mkdir()
    whole = list(train(config, directories[0]))
    parts = []
    for count in (1, 2, None):  # closed after a step, and between a step and its evaluation
        session = train(config, directories[1])
        parts += itertools.islice(session, count)
        session.close()
    torch.testing.assert_close(untimed(parts), untimed(whole), rtol=0, atol=0, equal_nan=True)
    ours, theirs = (checkpoints(directory / "checkpoints")[-1] for directory in directories)
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    one, other = (leaves(load_checkpoint(path, prepare(config).model)["optimizer"]) for path in (ours, theirs))
    assert len(one) > 10
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    assert len(whole) == 6 and all("val/AP" in whole[i].metrics for i in (2, 5))


def test_own_model_has_the_signals_of_its_outputs_and_two_learning_rates(run_of):
    metrics = [record.metrics for record in train(run_of(**EXAMPLES["model"]))]
    for name in ("matching_instability", "query_use", "no_object_matched", "prediction_variance_boxes"):
        assert f"diagnostics/{name}" in metrics[-1], name
    assert not any("attention" in key for record in metrics for key in record)
    assert metrics[0]["train/lr_backbone"] == pytest.approx(0.1 * metrics[0]["train/lr"])
    frozen = prepare(run_of(**EXAMPLES["model"], optim={"backbone_lr_ratio": 0.0})).model
    assert {n.split(".")[0] for n, p in frozen.named_parameters() if not p.requires_grad} == {"backbone"}


def test_own_model_boxes_are_in_units_of_the_unpadded_image(run_of):
    model = prepare(run_of(**EXAMPLES["model"])).model
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[1, :, 16:] = True
    boxes = model(torch.zeros(2, 3, 32, 32), mask)["pred_boxes"]
    assert torch.allclose(boxes[1, :, 0], (2 * boxes[0, :, 0]).clamp(max=1))
    assert torch.equal(boxes[1, :, 1], boxes[0, :, 1])


def test_muon_takes_the_matrices_and_adamw_the_rest(run_of):
    optimizer = prepare(run_of(**EXAMPLES["muon"])).optimizer
    for name, kind in optimizer.optimizers.items():
        assert {p.ndim == 2 for group in kind.param_groups for p in group["params"]} == {name == "muon"}
    metrics = next(train(run_of(**EXAMPLES["muon"]))).metrics
    assert metrics["train/lr_main_muon"] == metrics["train/lr"] == pytest.approx(1e-3)


def test_schedule_free_weights_are_evaluated_as_their_average(run_of, tmp_path):
    """best.safetensors holds x, the checkpoint y and x."""
    config = run_of(**EXAMPLES["schedule-free"])
    session = train(config, tmp_path)
    list(itertools.islice(session, 3))
    session.close()
    setup = prepare(config)
    state = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1], setup.model)["optimizer"]
    kept = read_weights(tmp_path / "best.safetensors")
    setup.optimizer.load_state_dict(state)
    for name, parameter in setup.model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(kept[name], setup.optimizer.state[parameter]["x"]), name
            assert "y" not in setup.optimizer.state[parameter]
    assert not torch.equal(kept["class_embed.weight"], setup.model.class_embed.weight)


def test_schedule_free_is_adamw_with_an_average_by_hand(run_of):
    """One parameter, two steps."""
    from examples.schedule_free import ScheduleFreeAdamW

    p = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = ScheduleFreeAdamW([{"params": [p], "lr": 0.1, "weight_decay": 0.0}])
    for gradient in (2.0, 2.0):  # Adam's normalised step is 1
        p.grad = torch.tensor([gradient])
        optimizer.step()
    z, x = 0.8, (0.9 + 0.8) / 2
    assert p.item() == pytest.approx(0.1 * z + 0.9 * x)
    optimizer.eval()
    assert p.item() == pytest.approx(x)
    optimizer.train()
    assert p.item() == pytest.approx(0.1 * z + 0.9 * x)


def test_own_format_gives_the_same_boxes_as_coco(run_of, tmp_path):
    config = run_of()
    root, sets = tmp_path / "table", {}
    for split in ("train", "val"):
        annotations, images = split_paths(config.data, split)
        content = load_annotations(annotations)
        (root / split).parent.mkdir(exist_ok=True)
        (root / split).symlink_to(images)
        sets[split] = content
        names = {c["id"]: c["name"] for c in content["categories"]}
        lines = ["file,width,height,class,left,top,right,bottom"]
        for image in content["images"]:
            boxes = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            start = f"{image['file_name']},32,32"
            for a in boxes:
                x, y, w, h = a["bbox"]
                lines.append(f"{start},{names[a['category_id']]},{x},{y},{x + w},{y + h}")
            if not boxes:
                lines.append(f"{start},,,,,")
        (root / f"{split}.csv").write_text("\n".join(lines))
    own = {"target": "examples.csv_boxes:read_split", "root": str(root)}
    path, folder = split_paths(run_of(data=own).data, "train")
    assert folder == root / "train" and path.parent == root / "converted"
    found = json.loads(path.read_text())
    assert [a["bbox"] for a in found["annotations"]] == [pytest.approx(a["bbox"]) for a in sets["train"]["annotations"]]
    written = path.stat()
    assert split_paths(run_of(data=own).data, "train")[0] == path
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (written.st_mtime_ns, written.st_ino)  # once
    records = list(train(run_of(data=own)))
    assert "val/AP" in records[-1].metrics


def test_hit_rate_by_hand(tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 50, 10, 10]},
        ],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    hit = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.9}
    assert hit_rate(path, [hit]) == {"hit_rate": 0.5}
    assert hit_rate(path, [hit | {"score": 0.4}, hit | {"bbox": [8, 8, 9, 9]}]) == {"hit_rate": 0}


def test_own_metric_is_logged(run_of):
    values = [r.metrics["val/hit_rate"] for r in train(run_of(**EXAMPLES["metric"])) if "val/AP" in r.metrics]
    assert len(values) == 2 and all(0 <= value <= 1 for value in values)


def test_own_parts_from_the_command_line(command, tmp_path):
    """Model, optimiser, augmentation and metric in one run of the program."""
    settings = [
        "model.target=examples.grid_detector:GridDetector",
        "model.options={cells: 3}",
        "optim.target=torch.optim:SGD",
        "optim.options={momentum: 0.9}",
        "optim.groups=[{pattern: 'bias$', weight_decay: 0, name: biases}]",
        "data.transform=examples.colour_jitter:colour_jitter",
        "evaluation.extra=examples.hit_rate:hit_rate",
        "train.ema=0.99",
    ]
    drawn = [f"data.root={tmp_path / 'data'}", "data.shapes_num_train=16", "data.shapes_num_val=8"]
    done = command(tmp_path / "store", *settings, *drawn, "horizon=4 steps", "train.evaluations=1", "workers=1")
    assert done.returncode == 0, done.stdout + done.stderr
    (records,) = (tmp_path / "store" / "runs").rglob("records.jsonl")
    metrics = [json.loads(line)["metrics"] for line in records.read_text().splitlines()]
    assert {"val/hit_rate", "val/ema/hit_rate", "val/AP", "val/ema/AP"} <= metrics[-1].keys()
    assert {"train/lr", "train/lr_backbone", "train/lr_biases", "train/lr_biases_backbone"} <= metrics[0].keys()
