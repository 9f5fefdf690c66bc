"""Whole runs on a device against the CPU's: evaluation, attention maps, resumption, inference, several processes."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from devices import DEVICES, needs_gpus
from outcomes import CLOCKS
from safetensors.torch import load_file

from detr.config import RunConfig
from detr.config_io import to_dict
from detr.data import open_split
from detr.data.image import read_image
from detr.inference.detector import Detector, add_checkpoint_arguments, open_detector
from detr.train import train

ROOT = Path(__file__).resolve().parents[2]
STAY = {"lr": 1e-12}  # weights of all devices stay equal
# On a GPU sums of many terms have no fixed order (atomic additions), so that a repeated run differs in its last digits.
REPEATED = {"cpu": 0.0, "cuda": 1e-4}


def finished(config: RunConfig, folder: Path) -> Path:
    """Train to the end; returns the folder."""
    folder.mkdir(exist_ok=True)
    for _ in train(config, folder):
        pass
    return folder


def values(config: RunConfig, folder: Path | None = None) -> list[dict[str, float]]:
    """Metrics of all records but the clocks'."""
    return [{k: v for k, v in record.metrics.items() if k not in CLOCKS} for record in train(config, folder)]


@pytest.mark.parametrize("device", DEVICES)
def test_an_evaluation_equals_that_of_the_cpu(tiny_run, tmp_path, device):
    folders = [finished(tiny_run(on, optim=STAY), tmp_path / f"{on}-{i}") for i, on in enumerate(("cpu", device))]
    expected, found = (json.loads((folder / "predictions.json").read_text()) for folder in folders)
    assert [d["image_id"] for d in found] == [d["image_id"] for d in expected] and len(found) == 4 * 8
    for key in ("score", "bbox"):
        pair = (torch.tensor([d[key] for d in detections]) for detections in (found, expected))
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_losses_of_validation_equal_those_of_the_cpu(tiny_run, device):
    expected, found = (values(tiny_run(name, optim=STAY))[-1] for name in ("cpu", device))
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_attention_maps_equal_those_of_the_cpu(tiny_run, tmp_path, device):
    folders = [finished(tiny_run(on, optim=STAY), tmp_path / f"{on}-{i}") for i, on in enumerate(("cpu", device))]
    expected, found = (load_file(folder / "attention.safetensors") for folder in folders)
    assert found.keys() == expected.keys() and found
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_run_goes_on_as_one_that_was_not_interrupted(tiny_run, tmp_path, device, precision):
    config = tiny_run(device, model={"dropout": 0.1}, train={"precision": precision})
    whole = values(config)
    (tmp_path / "run").mkdir()
    session = train(config, tmp_path / "run")
    parts = [{k: v for k, v in record.metrics.items() if k not in CLOCKS} for record in islice(session, 2)]
    session.close()
    parts += values(config, tmp_path / "run")
    assert len(parts) == len(whole)
    for part, other in zip(parts, whole, strict=True):
        assert part.keys() == other.keys()
        for key in {"train/loss", "val/loss"} & part.keys():
            assert part[key] == pytest.approx(other[key], rel=REPEATED[device], abs=0)


@pytest.mark.parametrize("device", DEVICES)
def test_a_detector_finds_on_the_device_what_it_finds_on_the_cpu(tiny_run, tmp_path, device):
    config = tiny_run("cpu")
    checkpoint = finished(config, tmp_path / "run") / "best.safetensors"
    (tmp_path / "run/config.json").write_text(json.dumps(to_dict(config)))
    image = read_image(open_split(config.data, "val").path(0))
    expected, found = (detector(checkpoint, name).detect(image) for name in ("cpu", device))
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-3, atol=1e-1)


def detector(checkpoint: Path, device: str) -> Detector:
    """The detector of a run on a device, as detr-predict opens it."""
    parser = ArgumentParser()
    add_checkpoint_arguments(parser)
    return open_detector(parser.parse_args(["--checkpoint", str(checkpoint), "--device", device]))


@pytest.fixture
def two_processes(tmp_path) -> Callable[[RunConfig], list[dict[str, float]]]:
    """Train in two processes, with a pause after three records; returns the metrics of rank 0."""

    def run(config: RunConfig) -> list[dict[str, float]]:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(to_dict(config)))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [str(ROOT / "tests/support/one_of_two.py"), str(tmp_path), "run"]
        variables = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        records = torch.load(folder / "rank-0.pt", weights_only=False)["records"]
        return [record["metrics"] for record in records]

    return run


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpus(2))])
def test_two_gpus_train_as_one_does(tiny_run, two_processes, device):
    """Over NCCL; tests/detr/test_distributed.py has the same over gloo."""
    config = tiny_run(device)
    expected, found = values(config), two_processes(config)
    assert len(found) == len(expected)
    for key in ("train/loss", "train/grad_norm", "val/loss"):
        one, two = ([metrics[key] for metrics in records if key in metrics] for records in (expected, found))
        assert two == pytest.approx(one, rel=1e-3), key
