"""`torchrun experiments/run.py`: a run over two processes, of which one is killed, goes on after torchrun's restart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from experiments.runs.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[3]
STEPS = 60
SETTINGS = (
    f"horizon={STEPS} steps",
    "train.evaluations=2",
    "train.batch_size=2",
    "train.accumulate=2",
    "data.shapes_num_train=12",
    "data.shapes_num_val=5",
    "model.hidden_dim=32",
    "model.backbone_width=8",
)


def records(store: Path) -> list[dict]:
    paths = store.glob("runs/single-*/single/seed-0/records.jsonl")
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_killed_process_is_restarted_and_the_run_goes_on(tmp_path):
    (tmp_path / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    with (tmp_path / "output").open("w") as output:
        torchrun = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "experiments/run.py"), *SETTINGS],
            cwd=tmp_path,
            env=os.environ | {"DETR_STORE": str(tmp_path / "mlflow.yaml"), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 250
        while len(records(tmp_path)) < 10 and time.monotonic() < deadline and torchrun.poll() is None:
            time.sleep(0.05)
        ranks = {process.environ()["RANK"]: process for process in psutil.Process(torchrun.pid).children()}
        ranks["1"].send_signal(signal.SIGKILL)
        before = len(records(tmp_path))
        code = torchrun.wait(timeout=250)
    finally:
        torchrun.kill()
        torchrun.wait()
    output = (tmp_path / "output").read_text()
    assert code == 0 and 10 <= before < STEPS, output
    assert "stopped: another process of this run was lost" in output
    assert output.count("0 runs are done, 1 to do") == 2
    found = records(tmp_path)
    assert [r["step"] for r in found if "train/loss" in r["metrics"]] == list(range(1, STEPS + 1))
    assert [r["seconds"] for r in found] == sorted(r["seconds"] for r in found)  # a new beginning would start at 0
    (run,) = tmp_path.glob("runs/single-*/single/seed-0")
    assert RunDirectory(run).status["state"] == "finished"
