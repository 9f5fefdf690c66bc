"""Runs as jobs of a real SLURM: an array, preemption, and a command that dies and collects when it is started again."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from slurm import cluster, missing

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
STEPS = 150
ABLATION = (
    "ablation.name=lr",
    "+ablation.factors.lr={low: ['optim.lr=1e-4'], high: ['optim.lr=1e-3']}",
    "+ablation.baseline.lr=low",
    f"horizon={STEPS} steps",
    "train.evaluations=1",
    "train.batch_size=2",
    "train.accumulate=2",
    "train.num_processes=2",
    "data.shapes_num_train=12",
    "data.shapes_num_val=5",
    "model.hidden_dim=32",
    "model.backbone_width=8",
    "launcher=slurm",
    "launcher.gpus=0",
    "launcher.cpus=1",
    "launcher.hours=1",
    "launcher.poll_seconds=0.5",
)


@pytest.fixture(scope="module")
def slurm():
    """The environment of a cluster that runs while the tests do; sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder)) as environment:
        yield environment


def said(*command: str) -> str:
    """What a command of SLURM prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 250) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}; the queue: {said('squeue')}"
        time.sleep(0.1)


def steps(run: Path) -> list[int]:
    """Optimiser steps in a run's records."""
    if not (run / "records.jsonl").exists():
        return []
    lines = (run / "records.jsonl").read_text().splitlines()
    return [record["step"] for record in map(json.loads, lines) if "train/loss" in record["metrics"]]


def test_the_cluster_listens_on_this_machine_alone(slurm):
    folder = Path(slurm["SLURM_CONF"]).parent
    daemons = [psutil.Process(int((folder / f"{name}.pid").read_text())) for name in ("slurmctld", "slurmd")]
    sockets = [s for daemon in daemons for s in daemon.net_connections("inet") if s.status == psutil.CONN_LISTEN]
    assert len(sockets) == 2 and {s.laddr.ip for s in sockets} == {"127.0.0.1"}


@pytest.fixture
def first(slurm, tmp_path, monkeypatch):
    """The command, started and not waited for."""
    (tmp_path / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    for name, value in (slurm | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}).items():
        monkeypatch.setenv(name, value)
    with (tmp_path / "first.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "experiments/run.py"), *ABLATION],
            cwd=tmp_path,
            env=os.environ | {"DETR_STORE": str(tmp_path / "mlflow.yaml")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield process
    process.kill()
    process.wait()


def test_jobs_survive_preemption_and_the_death_of_the_command(first, command, tmp_path):
    def runs() -> list[Path]:
        return sorted(path.parent for path in tmp_path.glob("runs/lr-*/lr=*/seed-0/worker.job"))

    def started() -> bool:
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        return len(runs()) == 2 and all(len(steps(run)) > 4 for run in runs())

    wait_for(started, "steps")
    first.kill()
    first.wait()
    numbers = [json.loads((run / "worker.job").read_text())["job"] for run in runs()]
    assert sorted(number.partition("_")[2] for number in numbers) == ["0", "1"]  # of one array
    said("scancel", "--signal=USR2", numbers[0])
    wait_for(lambda: said("squeue", "-h", "-j", numbers[0], "-o", "%T") == "PENDING", "the requeued job")
    assert json.loads((runs()[0] / "status.json").read_text())["state"] == "stopped"
    assert len(steps(runs()[0])) < STEPS
    # SLURM would wait for two minutes; within the same second the node would take the job for the one that was ended.
    said("scontrol", "update", f"JobId={numbers[0]}", "StartTime=now+3")

    done = command(tmp_path, *ABLATION)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 to do" not in done.stdout
    for run, number in zip(runs(), numbers, strict=True):
        assert json.loads((run / "worker.job").read_text()) == {"job": number, "code": 0}
        assert steps(run) == list(range(1, STEPS + 1))
    assert said("squeue", "-h") == ""


def test_what_slurm_refuses_is_said(slurm, answer, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    code, _, error = answer(*ABLATION, "launcher.partition=nowhere")
    assert code == 2 and "invalid partition specified: nowhere" in error
