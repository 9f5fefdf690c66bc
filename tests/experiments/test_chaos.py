"""The long tests of `make chaos`: many kills, many races, and hours of a tracking server that comes and goes.

CHAOS_MINUTES says how long the last one lasts (30), CHAOS_SEED what it draws (0). The table of what was tried, survived
and lost is printed at the end and kept in runs/chaos.json and runs/chaos.md.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from injection import PROCESSES, work, worker
from tracked import expected, stored

from detr.checkpoint import checkpoints
from experiments import sync
from experiments.lease import HELD
from experiments.services import free_ports
from experiments.store import ROOT, initialise, load_store, server_arguments

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]

SEED = int(os.environ.get("CHAOS_SEED", "0"))
MINUTES = float(os.environ.get("CHAOS_MINUTES", "30"))
KILLS, RACES = 50, 20
KILL = int(signal.SIGKILL)
STEPS = 40  # of the run that is killed, with a checkpoint after each


@pytest.fixture(scope="module")
def table():
    """Rows of fault, tried, survived, lost; written when the module ends."""
    rows: list[dict] = []
    yield rows
    folder = ROOT / "runs"
    folder.mkdir(exist_ok=True)
    (folder / "chaos.json").write_text(json.dumps({"seed": SEED, "rows": rows}, indent=1))
    lines = ["| fault | tried | survived | lost |", "|---|---|---|---|"]
    lines += [f"| {row['fault']} | {row['tried']} | {row['survived']} | {row['lost']} |" for row in rows]
    (folder / "chaos.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


def weights(directory) -> bytes:
    return (checkpoints(directory.path / "checkpoints")[-1] / "model.safetensors").read_bytes()


def test_kills_while_saving(make_run, nowhere, tmp_path, table):
    """Every kill falls into the writing of weights or of a checkpoint; what follows equals a run that had none."""
    chance = random.Random(SEED)
    settings = {"schedule": {"horizon": f"{STEPS} steps"}, "train": {"evaluations": STEPS}}
    whole = make_run(tmp_path / "whole", **settings)
    assert worker(whole.path, nowhere) == 0
    killed, intervals, number = 0, 0, 0
    directory = make_run(tmp_path / "0", **settings)
    while killed < KILLS:
        place, count = chance.choice([("flush", chance.randint(1, 12)), ("clean-up", chance.randint(1, 3))])
        code = worker(directory.path, nowhere, place, count, [KILL])
        assert code in (0, -KILL), f"seed {SEED}, kill {killed}: exit code {code}"
        if code == 0:  # it ended before it was hit: the next run
            assert weights(directory) == weights(whole)
            number += 1
            directory = make_run(tmp_path / str(number), **settings)
            continue
        killed += 1
        reached = directory.records.repair()["step"]
        saved = max((int(path.name[5:]) for path in checkpoints(directory.path / "checkpoints")), default=0)
        intervals = max(intervals, reached - saved)
    assert worker(directory.path, nowhere) == 0 and weights(directory) == weights(whole)
    table.append({"fault": "kill -9 while saving", "tried": killed, "survived": killed, "lost": 0})
    assert intervals <= 1, "more than the steps since the last checkpoint"


def test_the_same_arm_started_twice(make_run, nowhere, tmp_path, table):
    """Exactly one process trains; the other says who does, or finds the run finished."""
    won = 0
    for number in range(RACES):
        directory = make_run(tmp_path / str(number))
        store = {"DETR_STORE": str(nowhere), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        logs = [str(tmp_path / f"{number}-{i}.log") for i in range(2)]
        racers = [PROCESSES.Process(target=work, args=(str(directory.path), store, None, log)) for log in logs]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(200)
        codes = sorted(racer.exitcode for racer in racers)
        assert codes in ([0, HELD], [0, 0]), codes
        places = [(line["step"], len(line["metrics"])) for line in directory.records.read()]
        assert len(places) == len(set(places)) == 6
        won += 1
    table.append({"fault": "the same arm started twice at once", "tried": RACES, "survived": won, "lost": RACES - won})


def test_a_tracking_server_that_comes_and_goes(make_run, tmp_path, table):
    """Runs are trained and killed one after the other, while the server is killed and started again. In the end MLflow
    has every point of every run, once.
    """
    chance, deadline = random.Random(SEED), time.monotonic() + 60 * MINUTES
    (port,) = free_ports(1)
    folder = tmp_path / "client"
    folder.mkdir()
    text = (ROOT / "mlflow.yaml").read_text()
    (folder / "mlflow.yaml").write_text(text.replace("sqlite:///store/mlflow.db", f"http://127.0.0.1:{port}"))
    counts, runs = {"server": 0, "run": 0}, []
    while time.monotonic() < deadline:
        with served(tmp_path, port):
            end = time.monotonic() + chance.uniform(20, 60)
            while time.monotonic() < min(end, deadline):
                _train_a_little(make_run, tmp_path / "runs", folder / "mlflow.yaml", runs, counts, chance)
        counts["server"] += 1
        end = time.monotonic() + chance.uniform(5, 30)
        while time.monotonic() < min(end, deadline):
            _train_a_little(make_run, tmp_path / "runs", folder / "mlflow.yaml", runs, counts, chance)
    for directory in runs:
        assert directory.status["state"] == "finished" or worker(directory.path, folder / "mlflow.yaml") == 0
    with served(tmp_path, port):
        assert sync.sync(load_store(folder / "mlflow.yaml"), [tmp_path / "runs"]) == 0
        assert sync.sync(load_store(folder / "mlflow.yaml"), [tmp_path / "runs"]) == 0
    found = stored(tmp_path / "server" / "mlflow.yaml")
    missing = doubled = points = 0
    for directory in runs:
        wanted, got = expected(directory), found[directory.about["name"]]
        points += len(wanted)
        missing += sum((wanted - got).values())
        doubled += sum((got - wanted).values())
    for fault, count in (("tracking server killed", counts["server"]), ("run killed meanwhile", counts["run"])):
        table.append({"fault": fault, "tried": count, "survived": count, "lost": 0})
    kept = points - missing
    table.append({"fault": f"points of these {len(runs)} runs", "tried": points, "survived": kept, "lost": missing})
    assert (missing, doubled) == (0, 0)


def _train_a_little(make_run, root, store, runs, counts, chance) -> None:
    """Train a run to its end, or until it is killed; one that was killed goes on the next time."""
    if not runs or runs[-1].status["state"] == "finished":
        runs.append(make_run(root, name=f"arm {len(runs)}"))
    fault = chance.choice([(), ("record", chance.randint(1, 6), [KILL]), ("flush", chance.randint(1, 8), [KILL]),
                           ("micro-batch", chance.randint(1, 8), [int(signal.SIGTERM)])])  # fmt: skip
    code = worker(runs[-1].path, store, *fault)
    assert code in (0, 3, -KILL), code
    counts["run"] += code == -KILL


@contextmanager
def served(folder: Path, port: int):
    """An MLflow server on a SQLite store, killed with all its processes when the block ends."""
    home = folder / "server"
    home.mkdir(exist_ok=True)
    (home / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    store = replace(load_store(home / "mlflow.yaml"), port=port)
    initialise(store)
    command = [sys.executable, "-m", "mlflow", "server", *server_arguments(store)]
    variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("a") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(port)
        yield
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)


def _wait(port: int) -> None:
    import urllib.request

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return
        time.sleep(0.3)
    raise AssertionError("the MLflow server does not start")
