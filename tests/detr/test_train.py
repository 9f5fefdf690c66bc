"""A whole run of seconds: records, exact accumulation, resuming bit by bit, and what stops it."""

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detr.checkpoint import checkpoint_step, checkpoints, load_checkpoint, read_weights
from detr.data.batch import Batch, collate
from detr.errors import InputError
from detr.models import build_model
from detr.setup import Progress, prepare
from detr.step import NonFiniteLoss, train_step
from detr.train import Record, evaluate_at, train

CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")


def untimed(record: Record) -> tuple:
    return record.step, record.epoch, record.samples, {k: v for k, v in record.metrics.items() if k not in CLOCKS}


def assert_same(first: list[Record], second: list[Record]) -> None:
    assert [untimed(r)[:3] for r in first] == [untimed(r)[:3] for r in second]
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(untimed(a)[3], untimed(b)[3], rtol=0, atol=0, equal_nan=True)


def test_a_run_trains_evaluates_and_leaves_its_files(tiny_run, tmp_path):
    config, directory = tiny_run(), tmp_path / "run"
    directory.mkdir()
    records = list(train(config, directory))
    assert [r.step for r in records] == [1, 2, 2, 3, 4, 4]
    assert [("val/AP" in r.metrics) for r in records] == [False, False, True, False, False, True]
    last_step, last_evaluation = records[-2:]
    assert (last_step.samples, last_step.num_steps) == (16, 4)
    assert last_step.epoch == pytest.approx(16 / 6)
    for key in ("loss", "loss_ce", "loss_bbox", "loss_giou", "grad_norm", "clip_fraction", "lr", "lr_backbone"):
        assert math.isfinite(last_step.metrics[f"train/{key}"]), key
    for key in ("loss", "AP", "AP50", "AP75"):
        assert math.isfinite(last_evaluation.metrics[f"val/{key}"]), key
    assert [p.name for p in checkpoints(directory / "checkpoints")] == ["step-00000002", "step-00000004"]
    detections = json.loads((directory / "predictions.json").read_text())
    assert len(detections) == 3 * 8  # every query of every validation image
    model = build_model(replace(config.model, num_classes=3))
    model.load_state_dict(read_weights(directory / "best.safetensors"))


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny_run):
    config = tiny_run(schedule={"horizon": "2 steps"})
    first, second = list(train(config)), list(train(config))
    assert_same(first, second)
    other = next(train(replace(config, seed=1)))
    assert other.metrics["train/loss"] != first[0].metrics["train/loss"]


@pytest.mark.parametrize(
    ("records_before", "grouping"), [(1, "none"), (2, "none"), (3, "none"), (4, "none"), (5, "none"), (3, "size")]
)
def test_resuming_is_exact_wherever_the_run_was_closed(tiny_run, tmp_path, records_before, grouping):
    """The records before and after, taken together, and the weights are those of a run in one go."""
    config = tiny_run(train={"grouping": grouping})
    directories = in_one_go, in_parts = tmp_path / "in_one_go", tmp_path / "in_parts"
    for directory in directories:
        directory.mkdir()
    whole = list(train(config, in_one_go))
    run = train(config, in_parts)
    parts = list(itertools.islice(run, records_before))
    run.close()
    torch.manual_seed(12345)  # another process begins with other random numbers
    parts += train(config, in_parts)
    assert_same(whole, parts)
    last = [checkpoints(directory / "checkpoints")[-1] / "model.safetensors" for directory in directories]
    assert last[0].read_bytes() == last[1].read_bytes()
    for name in ("predictions.json", "best.safetensors"):
        assert (in_one_go / name).read_bytes() == (in_parts / name).read_bytes()


def test_a_run_that_is_closed_after_every_record_is_the_same_run(tiny_run, tmp_path):
    """Nothing is done twice and nothing is left out."""
    config, parts = tiny_run(), []
    for _ in range(20):
        run = train(config, tmp_path)
        record = next(run, None)
        run.close()
        if record is None:
            break
        parts.append(record)
    assert_same(list(train(config)), parts)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_loading_processes_change_nothing(tiny_run, tmp_path, num_workers):
    """Augmentation depends on (seed, epoch, image), not on the process that does it, nor on where a resume began."""
    config = tiny_run(data={"num_workers": num_workers})
    run = train(config, tmp_path)
    parts = [next(run)]
    run.close()
    assert_same(list(train(tiny_run())), [*parts, *train(config, tmp_path)])


def test_random_numbers_of_python_and_numpy_have_no_part_in_it(tiny_run):
    """A resumed run could not restore them."""
    before = random.getstate(), np.random.get_state()
    first = list(train(tiny_run()))
    assert random.getstate() == before[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))
    random.seed(1)
    np.random.seed(1)
    assert_same(first, list(train(tiny_run())))


def test_resuming_keeps_the_state_of_the_optimiser(tiny_run, tmp_path):
    config = tiny_run()
    run = train(config, tmp_path)
    list(itertools.islice(run, 1))
    run.close()
    state = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1], prepare(config).model)
    assert state["progress"]["step"] == 1
    assert {s["step"].item() for s in state["optimizer"]["state"].values()} == {1}


def test_a_finished_run_has_nothing_left_to_do(tiny_run, tmp_path):
    config = tiny_run(schedule={"horizon": "1 step"})
    assert len(list(train(config, tmp_path))) == 2
    assert list(train(config, tmp_path)) == []


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, [1, 2]), (10.0, [])])
def test_checkpoints_are_saved_when_their_minutes_have_passed(tiny_run, tmp_path, minutes, steps):
    """Before the first evaluation, which saves one anyway."""
    run = train(tiny_run(train={"checkpoint_minutes": minutes, "evaluations": 1}), tmp_path)
    list(itertools.islice(run, 3))  # the third step begins after the checkpoint of the second
    assert [checkpoint_step(path) for path in checkpoints(tmp_path / "checkpoints")] == steps
    run.close()


def test_seconds_add_up_over_sessions(tiny_run, tmp_path):
    run = train(tiny_run(), tmp_path)
    before = next(run).seconds
    run.close()
    assert next(train(tiny_run(), tmp_path)).seconds > before


def test_it_learns(tiny_run):
    """Overfit six scenes without augmentation: the loss falls to a fraction, and the classes come right."""
    config = tiny_run(
        model={"dropout": 0.0, "norm": "pre"},
        data={"augmentation": "none"},
        optim={"lr": 2e-3, "backbone_lr_ratio": 1.0, "clip_norm": 1.0},
        schedule={"shape": "constant", "horizon": "120 steps"},
        train={"batch_size": 6, "accumulate": 1, "evaluations": 1},
    )
    losses = [r.metrics for r in train(config) if "train/loss" in r.metrics]
    first, last = (sum(m["train/loss"] for m in part) / 5 for part in (losses[:5], losses[-5:]))
    assert last < 0.5 * first
    assert losses[-1]["train/class_error"] < 30


def test_learning_rates_and_clipping_are_logged_as_used(tiny_run):
    config = tiny_run(schedule={"horizon": "10 steps", "shape": "step"}, optim={"clip_norm": 1e-3})
    steps = [r.metrics for r in train(config) if "train/lr" in r.metrics]
    assert [m["train/lr"] for m in steps] == pytest.approx([1e-3] * 8 + [1e-4] * 2)
    assert [m["train/lr_backbone"] for m in steps] == pytest.approx([1e-4] * 8 + [1e-5] * 2)
    assert all(m["train/clip_fraction"] == 1 for m in steps)
    mean_scale = sum(1e-3 / m["train/grad_norm"] for m in steps) / 10
    assert steps[-1]["train/clip_scale"] == pytest.approx(mean_scale, rel=1e-5)
    unclipped = next(train(tiny_run(optim={"clip_norm": 0.0}))).metrics
    assert (unclipped["train/clip_fraction"], unclipped["train/clip_scale"]) == (0, 1)
    assert unclipped["train/grad_norm"] > 0


# Exact accumulation


def split(samples: list, size: int) -> list[Batch]:
    return [collate(samples[i : i + size]) for i in range(0, len(samples), size)]


@pytest.mark.parametrize("without_objects", [(), (1, 4, 5), (0, 1, 2, 3, 4, 5)])
def test_micro_batches_step_like_the_large_batch(tiny_run, without_objects):
    """Losses, gradient norm and updated weights of 3 x 2 and 6 x 1 images equal those of 1 x 6."""
    config = tiny_run(model={"dropout": 0.0}, data={"augmentation": "none"}, optim={"clip_norm": 0.1})

    def step(size: int) -> tuple[dict, dict]:
        setup = prepare(config)
        samples = [setup.train_set[0, i] for i in range(6)]
        for i in without_objects:
            samples[i][1].update(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
        metrics = train_step(setup, Progress(), split(samples, size))
        return metrics, setup.model.state_dict()

    whole, weights = step(6)
    for size in (1, 2):
        metrics, found = step(size)
        assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-5, nan_ok=True)
        assert math.isnan(metrics["train/class_error"]) == (len(without_objects) == 6)
        for name, tensor in weights.items():
            # Adam's first update has the size of lr = 1e-3 wherever the gradient is above rounding
            assert (found[name] - tensor).abs().mean() < 1e-5, name


def test_the_gradient_is_clipped_once_after_the_last_micro_batch(tiny_run, monkeypatch):
    calls = []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a, **k: calls.append(1) or clip(*a, **k))
    run = train(tiny_run(train={"batch_size": 1, "accumulate": 4}))
    next(run)
    assert len(calls) == 1


# Precision and faults


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_formats_leave_outputs_losses_and_weights_in_float32(tiny_run, monkeypatch, precision):
    config = tiny_run(train={"precision": precision}, schedule={"horizon": "1 step"})
    setup = prepare(config)
    seen, inner = [], []
    setup.criterion.register_forward_hook(
        lambda _m, inputs, losses: seen.extend([*(x.dtype for x in losses.values()), inputs[0]["pred_boxes"].dtype])
    )
    setup.model.transformer.encoder.layers[0].linear1.register_forward_hook(lambda _m, _i, x: inner.append(x.dtype))
    cost = setup.criterion.matcher.cost

    def watched_cost(*inputs: torch.Tensor) -> torch.Tensor:
        seen.extend(x.dtype for x in (cost(*inputs), inputs[0], inputs[1]))
        return cost(*inputs)

    monkeypatch.setattr(setup.criterion.matcher, "cost", watched_cost)
    train_step(setup, Progress(), split([setup.train_set[0, i] for i in range(4)], 2))
    assert set(inner) == {getattr(torch, precision)}
    assert set(seen) == {torch.float32}
    assert all(p.dtype == torch.float32 for p in setup.model.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_stops_at_that_step_before_the_update(tiny_run, tmp_path, value):
    config = tiny_run()
    run = train(config, tmp_path)
    next(run)
    setup = run.gi_frame.f_locals["setup"]
    with torch.no_grad():
        setup.model.class_embed.bias[0] = value
    before = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
    with pytest.raises(NonFiniteLoss, match=r"step 2: the loss is .*images \d+, \d+, \d+, \d+"):
        next(run)
    assert all(torch.equal(p.nan_to_num(), before[name].nan_to_num()) for name, p in setup.model.named_parameters())
    crash = torch.load(tmp_path / "crash.pt", weights_only=True)
    assert crash["step"] == 2 and len(crash["image_ids"]) == 4
    assert not math.isfinite(crash["losses"]["train/loss"]) and len(crash["norms_before"]) == 1


def test_number_of_classes_must_hold_the_data(tiny_run):
    with pytest.raises(InputError, match=r"model.num_classes=2: the data has 3"):
        prepare(tiny_run(model={"num_classes": 2}))


def test_init_from_starts_at_the_weights_of_a_file(tiny_run, tmp_path):
    source = prepare(tiny_run()).model
    torch.nn.init.constant_(source.query_embed.weight, 3.0)
    torch.save({"model": source.state_dict()}, tmp_path / "detr.pth")
    model = prepare(tiny_run(model={"init_from": str(tmp_path / "detr.pth")})).model
    assert (model.query_embed.weight == 3).all()


# Images that fail in mid-training


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no image")])
def test_an_image_that_fails_in_mid_training_is_replaced_and_counted(tiny_run, tmp_path, caplog, num_workers, damage):
    config = tiny_run(data={"quarantine_share": 0.34, "num_workers": num_workers})
    run = train(config, tmp_path)
    next(run)
    run.close()
    train_set = prepare(config).train_set
    damage(train_set.path(1))
    records = list(train(config, tmp_path))
    counts = [r.metrics.get("train/quarantined", 0) for r in records if "train/loss" in r.metrics]
    assert counts[-1] == 1 and counts == sorted(counts)
    assert caplog.text.count("training image 2 is replaced by the next one") == 1
    state = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1], prepare(config).model)
    assert list(state["progress"]["quarantined"]) == [2]
    target = train_set[1, 1][1]
    assert (target["image_id"], list(target["unreadable"])) == (3, [2])
    assert target["labels"].tolist() == train_set.labels[2].tolist()


def test_more_unreadable_images_than_their_share_stop_the_run(tiny_run):
    config = tiny_run(data={"quarantine_share": 0.34})  # 2 of 6
    train_set = prepare(config).train_set
    for index in (0, 2, 4):
        train_set.path(index).unlink()
    with pytest.raises(InputError, match=r"3 training images cannot be read, data.quarantine_share=0.34 allows 2 of 6"):
        list(train(config))


def test_no_image_of_a_small_set_may_fail(tiny_run):
    """The default share of six images is none."""
    config = tiny_run(data={"num_workers": 1})
    train_set = prepare(config).train_set
    train_set.path(3).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"\.png: not a readable image"):
        list(train(config))


def test_a_validation_image_is_never_replaced(tiny_run):
    """AP over other images could not be compared."""
    config = tiny_run(data={"quarantine_share": 0.9})
    val_set = prepare(config).val_set
    val_set.path(0).unlink()
    with pytest.raises(InputError, match="the image file is missing"):
        list(train(config))


@pytest.mark.parametrize(
    ("num_steps", "evaluations", "expected"),
    [(10, 2, {5, 10}), (10, 1, {10}), (3, 10, {1, 2, 3}), (1, 1, {1}), (7, 3, {2, 5, 7})],
)
def test_evaluations_are_evenly_spaced_and_the_last_is_at_the_end(num_steps, evaluations, expected):
    assert evaluate_at(num_steps, evaluations) == expected
