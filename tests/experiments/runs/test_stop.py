"""Stopping a command, and going on with the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
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


def stop(store: Path, number: signal.Signals, after: int, *overrides: str) -> list[dict]:
    """Run the command, send the signal once there are `after` records, and return those that it left."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "experiments/run.py"), *SETTINGS, *overrides],
        cwd=store,
        env=os.environ | {"DETR_STORE": str(store / "mlflow.yaml"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while len(records(store)) < after and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=100) == 3
    left = records(store)
    assert after <= len(left) < 153
    return left


def test_a_command_that_is_stopped_twice_goes_on_where_it_was(tmp_path, command):
    (tmp_path / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    first = stop(tmp_path, signal.SIGINT, 20)
    second = stop(tmp_path, signal.SIGTERM, len(first) + 20, "launcher=local")  # the run is in the command's process
    assert second[: len(first)] == first
    done = command(tmp_path, *SETTINGS, "launcher=local")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [record["step"] for record in records(tmp_path) if "train/loss" in record["metrics"]]
    assert steps == list(range(1, 151))
    assert records(tmp_path)[: len(second)] == second
