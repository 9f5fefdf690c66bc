"""Stopping a command, and going on with the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "horizon=150 steps",
    "train.evaluations=3",
    "train.batch_size=4",
    "data.shapes_num_train=12",
    "data.shapes_num_val=4",
    "model.hidden_dim=32",
    "model.backbone_width=8",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=2",
)


def records(store: Path) -> list[dict]:
    paths = list((store / "runs").glob("single-*/single/seed-0/records.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_goes_on_where_it_was(tmp_path, command, number):
    (tmp_path / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "experiments/run.py"), *SETTINGS],
        cwd=tmp_path,
        env=os.environ | {"DETR_STORE": str(tmp_path / "mlflow.yaml"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while len(records(tmp_path)) < 20 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=100) == 3
    before = records(tmp_path)
    assert 20 <= len(before) < 153
    done = command(tmp_path, *SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [record["step"] for record in records(tmp_path) if "train/loss" in record["metrics"]]
    assert steps == list(range(1, 151))
    assert records(tmp_path)[: len(before)] == before
