"""The moving average of the weights, a user's own metric, and the weights that are kept."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from detr.checkpoint import checkpoints, load_checkpoint, read_weights
from detr.data.batch import collate
from detr.errors import InputError
from detr.evaluation import predict_dataset, validation_loader
from detr.setup import Progress, Setup, prepare
from detr.step import ema_decay, train_step
from detr.train import resume, train

CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def step(setup: Setup, progress: Progress) -> None:
    train_step(setup, progress, [collate([setup.train_set[0, i] for i in pair]) for pair in ((0, 1), (2, 3))])


@pytest.mark.parametrize(
    ("decay", "step", "expected"), [(0.9999, 1, 2 / 11), (0.9999, 1000, 1001 / 1010), (0.5, 1000, 0.5)]
)
def test_the_decay_rises_to_its_setting(decay, step, expected):
    assert ema_decay(decay, step) == pytest.approx(expected)


def test_the_average_is_that_of_its_formula(tiny_run):
    """Steps 1 to 12 at a decay of 0.5, which the ramp reaches at step 8; the first average is the first weights."""
    setup, progress = prepare(tiny_run(train={"ema": 0.5}, schedule={"horizon": "20 steps"})), Progress()
    expected = None
    for number in range(1, 13):
        step(setup, progress)
        decay = min(0.5, (1 + number) / (10 + number))
        new = weights(setup.model)
        expected = new if expected is None else decay * expected + (1 - decay) * new
        torch.testing.assert_close(weights(setup.ema.module), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(setup.ema.module), weights(setup.model))


def test_the_average_changes_nothing_in_the_training(tiny_run):
    plain, averaged = (list(train(tiny_run(train={"ema": ema}))) for ema in (0.0, 0.9))
    for one, other in zip(plain, averaged, strict=True):
        ours = {k: v for k, v in other.metrics.items() if "val/ema/" not in k and k not in CLOCKS}
        theirs = {k: v for k, v in one.metrics.items() if k not in CLOCKS}
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert any("val/ema/loss" in record.metrics for record in averaged)


def test_the_average_is_evaluated_and_kept_beside_the_weights(tiny_run, tmp_path):
    config = tiny_run(train={"ema": 0.8})
    last = list(train(config, tmp_path))[-1].metrics
    setup = prepare(config)
    resume(setup, tmp_path)
    loader = validation_loader(setup.val_set, config.data, config.evaluation)
    for model, prefix, name in ((setup.model, "val/", ""), (setup.ema.module, "val/ema/", "_ema")):
        detections, losses = predict_dataset(model, loader, setup.criterion, setup.device)
        assert last[f"{prefix}loss"] == pytest.approx(losses["loss"], rel=1e-6)
        assert json.loads((tmp_path / f"predictions{name}.json").read_text()) == detections
        assert read_weights(tmp_path / f"best{name}.safetensors").keys() == setup.model.state_dict().keys()
    assert last["val/ema/loss"] != last["val/loss"]
    assert {k.removeprefix("val/ema/") for k in last if "val/ema/" in k} >= {"AP", "AP50", "loss_ce"}


@pytest.mark.parametrize("records_before", [2, 4])
def test_resuming_keeps_the_average(tiny_run, tmp_path, records_before):
    config, directories = tiny_run(train={"ema": 0.9}), (tmp_path / "whole", tmp_path / "parts")
    for directory in directories:
        directory.mkdir()
    list(train(config, directories[0]))
    session = train(config, directories[1])
    list(itertools.islice(session, records_before))
    session.close()
    list(train(config, directories[1]))
    whole, parts = (
        load_checkpoint(checkpoints(directory / "checkpoints")[-1], prepare(config).model)["ema"]
        for directory in directories
    )
    assert whole.keys() == parts.keys() and whole["n_averaged"] == 4
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    for name in ("best_ema.safetensors", "predictions_ema.json"):
        assert (directories[0] / name).read_bytes() == (directories[1] / name).read_bytes()


# Own metrics


@pytest.fixture
def extra(monkeypatch):
    """Put a function in the place of a user's."""

    def put(function) -> dict[str, str]:
        monkeypatch.setattr("user_parts.metric", function, raising=False)
        return {"extra": "user_parts:metric"}

    return put


def test_own_numbers_are_logged_of_both_kinds_of_weights(tiny_run, extra):
    seen = []

    def metric(annotations: Path, detections: list) -> dict[str, float]:
        seen.append(len(detections))
        return {"count": len(detections), "odd": float("nan")}

    config = tiny_run(evaluation=extra(metric), train={"ema": 0.9, "evaluations": 1})
    last = list(train(config))[-1].metrics
    assert last["val/count"] == last["val/ema/count"] == 3 * 8
    assert "val/odd" not in last
    assert len(seen) == 3 and seen[0] > 0  # once before the run, with detections


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda annotations, detections: 3,
            r"\.extra='user_parts:metric': must return \{name: number\}, not 3",
        ),
        (lambda annotations, detections: {"a": "b"}, r"must return \{name: number\}"),
        (lambda annotations, detections: {"AP": 0.5}, "the name 'AP' is taken"),
        (lambda annotations, detections: {"ema/x": 0.5}, "the name 'ema/x' is taken"),
        (lambda annotations: {}, r"cannot be called with \(.*Path, list\): too many positional arguments"),
    ],
)
def test_own_metrics_that_do_not_fit_are_refused_before_the_run(tiny_run, extra, function, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny_run(evaluation=extra(function)))
