"""Two processes make the run that one makes: gradients, records and files; and neither waits for a dead one."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr.checkpoint import checkpoints
from detr.config import RunConfig, TrainConfig
from detr.config_io import to_dict
from detr.data.batch import collate
from detr.data.sampler import StreamSampler
from detr.distributed import shard
from detr.errors import InputError
from detr.setup import Progress, prepare
from detr.step import train_step
from detr.train import train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests/support/one_of_two.py"
CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")


def start(folder: Path, scenarios: dict[str, RunConfig], **environment: str) -> list[subprocess.Popen]:
    """Two processes that go through the scenarios."""
    for name, config in scenarios.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(to_dict(config)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    variables |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::FutureWarning", "GLOO_SOCKET_IFNAME": "lo"}
    variables |= environment
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), *scenarios],
            env=os.environ | variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]


def found(folder: Path, rank: int) -> dict:
    """What a process of a scenario found."""
    return torch.load(folder / f"rank-{rank}.pt", weights_only=False)


# Scenarios that both processes survive, one after the other in the same two processes

WITHOUT_OBJECTS = {"step-drawn": (), "step-uneven": (0, 1, 2, 3), "step-empty": range(8)}  # images 0 to 3 are rank 0's


def micro_batches(config: RunConfig, without_objects: tuple[int, ...]) -> list:
    """Four of two images each, of different sizes."""
    samples = [prepare(config).train_set[0, i] for i in range(8)]
    for i, (image, target) in enumerate(samples):
        samples[i] = (image[:, : 32 - 2 * i], target)
        if i in without_objects:
            target.update(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    return [collate(samples[i : i + 2]) for i in range(0, 8, 2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_run_in):
    """The folder in which two processes went through the scenarios, and the settings of each."""
    folder = tmp_path_factory.mktemp("two")
    tiny_run = tiny_run_in(folder)
    drawn = {"shapes_num_train": 8, "shapes_num_val": 5}
    step = tiny_run(data=drawn | {"augmentation": "none"}, train={"accumulate": 4}, optim={"clip_norm": 0.0})
    scenarios = dict.fromkeys(WITHOUT_OBJECTS, step)
    for name, images in WITHOUT_OBJECTS.items():
        (folder / name).mkdir()
        torch.save(micro_batches(step, images), folder / name / "micro_batches.pt")
    scenarios["fault-training"] = tiny_run(data={"shapes_seed": 1}, train={"evaluations": 1})
    prepare(scenarios["fault-training"]).train_set.path(3).unlink()
    scenarios["fault-validation"] = tiny_run(data={"shapes_seed": 2}, train={"evaluations": 4})
    prepare(scenarios["fault-validation"]).val_set.path(2).unlink()
    scenarios["fault-diverging"] = tiny_run(optim={"lr": 1e30})
    # Of 5 images in batches of 2 one process predicts 2 and the other 3.
    scenarios["run"] = tiny_run(
        data=drawn,
        train={"accumulate": 4, "num_processes": 2, "update_ratio_steps": 2, "ema": 0.9},
        schedule={"horizon": "6 steps"},
        evaluation={"batch_size": 2},
    )
    processes = start(folder, scenarios)
    output = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(output)
    return folder, scenarios


@pytest.mark.parametrize("name", WITHOUT_OBJECTS)
def test_the_gradient_is_that_of_one_process(two, name):
    """Dropout, sizes of images and numbers of boxes differ between the micro-batches; so do the ranks' denominators."""
    folder, scenarios = two
    setup, gradient = prepare(scenarios[name]), {}
    setup.optimizer.register_step_pre_hook(
        lambda *_: gradient.update({n: p.grad.clone() for n, p in setup.model.named_parameters()})
    )
    metrics = train_step(setup, Progress(), micro_batches(scenarios[name], WITHOUT_OBJECTS[name]))
    for rank in (0, 1):
        other = found(folder / name, rank)
        assert other["metrics"] == pytest.approx(metrics, rel=1e-5, nan_ok=True)
        assert other["gradient"].keys() == gradient.keys()
        for key, value in gradient.items():
            assert (other["gradient"][key] - value).norm() <= 1e-5 * metrics["train/grad_norm"], key
    first, second = (found(folder / name, rank)["weights"] for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_has_the_records_and_files_of_one_process(two, tmp_path):
    """Closed and resumed once, evaluated on a set that does not divide, with dropout and all diagnostics."""
    folder, scenarios = two
    records = found(folder / "run", 0)["records"]
    alone = list(train(replace(scenarios["run"], train=replace(scenarios["run"].train, num_processes=1)), tmp_path))
    assert [(r["step"], r["samples"], r["epoch"]) for r in records] == [(r.step, r.samples, r.epoch) for r in alone]
    for record, expected in zip(records, alone, strict=True):
        ours, theirs = (
            {k: v for k, v in metrics.items() if k not in CLOCKS} for metrics in (record["metrics"], expected.metrics)
        )
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    names = sorted(path.name for path in (folder / "run").iterdir() if not path.name.startswith(("rank", "config")))
    assert names == sorted(path.name for path in tmp_path.iterdir() if path.name != "shapes")
    ours, theirs = (json.loads((d / "predictions.json").read_text()) for d in (folder / "run", tmp_path))
    assert [(d["image_id"], d["query"]) for d in ours] == [(d["image_id"], d["query"]) for d in theirs]
    assert [d["score"] for d in ours] == pytest.approx([d["score"] for d in theirs], abs=1e-4)


def test_the_second_process_has_nothing_to_tell_of_an_evaluation(two):
    folder, _ = two
    records = found(folder / "run", 1)["records"]
    assert [bool(record["metrics"]) for record in records] == [
        "train/loss" in record["metrics"] for record in found(folder / "run", 0)["records"]
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fault-training", r"InputError: .*000003.png: the image file is missing"),
        ("fault-validation", r"InputError: .*000002.png: the image file is missing"),
        ("fault-diverging", r"NonFiniteLoss: step 2: the loss is nan"),
    ],
)
def test_a_fault_that_one_process_meets_ends_the_run_in_both(two, name, message):
    folder, _ = two
    errors = [found(folder / name, rank).get("error") for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert re.match(message, errors[0])
    assert (folder / name / "crash.pt").exists() == ("diverging" in name)


# Scenarios that one process does not survive


@pytest.fixture(scope="module")
def lost(tmp_path_factory, tiny_run_in):
    """The folder in which the second process of a run was killed and that of another froze, and their settings."""
    folder = tmp_path_factory.mktemp("lost")
    config = tiny_run_in(folder)(train={"num_processes": 2, "evaluations": 1})
    prepare(config)  # draws the scenes
    pairs = [start(folder, {name: config}, DETR_TIMEOUT_MINUTES="0.25") for name in ("killed", "frozen")]
    for first, second in pairs:
        output = first.communicate(timeout=100)[0]
        second.kill()
        second.communicate()
        assert first.returncode == 0, output
    return folder, config


@pytest.mark.parametrize(("name", "reason"), [("killed", "onnection"), ("frozen", "Timed out")])
def test_a_lost_process_ends_the_run_where_it_can_go_on(lost, name, reason):
    """The other one notices, saves the steps that both did, and leaves. One process alone takes it to its end."""
    folder, config = lost
    assert re.search(f"another process of this run was lost .*{reason}", found(folder / name, 0)["error"])
    assert [path.name for path in checkpoints(folder / name / "checkpoints")] == ["step-00000003"]
    assert [record.step for record in train(config, folder / name)] == [4, 4]


# Without processes


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 30), st.integers(0, 9))
def test_the_processes_of_a_step_see_what_one_would(size, times, num_images, first_step):
    def keys(rank: int, world_size: int) -> list:
        return list(StreamSampler(num_images, 2, times * size, 0, first_step, first_step + 3, rank, world_size))

    shares = [keys(rank, size) for rank in range(size)]
    whole = keys(0, 1)
    for step in range(3):
        together = [key for share in shares for key in share[step * times : (step + 1) * times]]
        assert together == whole[step * times * size : (step + 1) * times * size]


@given(st.integers(0, 30), st.integers(1, 8))
def test_shares_are_the_whole_and_equal_but_for_one(count, size):
    shares = [shard(range(count), rank, size) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_number_of_processes_that_does_not_divide_the_micro_batches_is_refused():
    with pytest.raises(InputError, match=r"train.num_processes=3: must divide train.accumulate=32"):
        TrainConfig(num_processes=3)


def test_batch_norm_and_several_processes_are_refused(tiny_run):
    with pytest.raises(InputError, match=r"model.backbone_norm='batch': its running statistics"):
        tiny_run(train={"num_processes": 2}, model={"backbone_norm": "batch"})
