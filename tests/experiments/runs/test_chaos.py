"""The long tests of `make chaos`: many kills, many races, and hours of a tracking server that comes and goes.

CHAOS_MINUTES says how long the last one lasts (30), CHAOS_SEED what is drawn (0).
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from chaos_table import SEED, attempt
from injection import PROCESSES, work, worker
from outcomes import outcome, untimed
from tracked import expected, stored

from detr.checkpoint import checkpoints
from detr.errors import ExitCode
from experiments.schema.store import ROOT, load_store
from experiments.services.mlflow_server import server_arguments, server_variables
from experiments.services.servers import free_ports
from experiments.tracking import sync
from experiments.tracking.database import initialise

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(0)]

MINUTES = float(os.environ.get("CHAOS_MINUTES", "30"))
KILLS, RACES, SIGNALLED = 50, 20, 20
KILL = int(signal.SIGKILL)
STEPS = 40  # of the run that is killed, with a checkpoint after each


def weights(directory) -> bytes:
    return (checkpoints(directory.path / "checkpoints")[-1] / "model.safetensors").read_bytes()


def test_kills_while_saving(make_run, nowhere, tmp_path):
    """Every kill falls into the writing of weights or of a checkpoint. It is survived when at most the step since the
    last checkpoint is lost, and the next start goes on; the end equals that of a run that had none.
    """
    chance = random.Random(SEED)
    settings = {"schedule": {"horizon": f"{STEPS} steps"}, "train": {"evaluations": STEPS}}
    whole = make_run(tmp_path / "whole", **settings)
    assert worker(whole.path, nowhere) == 0
    killed = number = 0
    directory = make_run(tmp_path / "0", **settings)
    while killed < KILLS:
        place, count = chance.choice([("flush", chance.randint(1, 12)), ("clean-up", chance.randint(1, 3))])
        code = worker(directory.path, nowhere, place, count, [KILL])
        if code == -KILL:
            killed += 1
            last = directory.records.repair()
            attempt("kill -9 while saving", (last.step if last else 0) - saved(directory) <= 1)
            continue
        attempt("a run that was killed while saving, to its end", code == 0 and weights(directory) == weights(whole))
        number += 1
        directory = make_run(tmp_path / str(number), **settings)
    code = worker(directory.path, nowhere)
    attempt("a run that was killed while saving, to its end", code == 0 and weights(directory) == weights(whole))


def saved(directory) -> int:
    """Step of the last checkpoint that the next start will take."""
    return max((int(path.name[5:]) for path in checkpoints(directory.path / "checkpoints")), default=0)


def test_signals_at_any_time(make_run, nowhere, tmp_path):
    """From the start of the process on, not at chosen places. The end is the same bit for bit."""
    chance = random.Random(SEED)
    whole = make_run(tmp_path / "whole")
    begin = time.monotonic()
    assert worker(whole.path, nowhere) == 0
    span = time.monotonic() - begin
    for number in range(SIGNALLED):
        directory = make_run(tmp_path / str(number))
        for _ in range(3):
            process = started(directory, nowhere, tmp_path / f"{number}.log")
            process.join(chance.uniform(0, span))
            if process.is_alive():
                os.kill(process.pid, chance.choice([KILL, *map(int, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))]))
            process.join(100)
        code = worker(directory.path, nowhere)
        same = (untimed(directory), outcome(directory)) == (untimed(whole), outcome(whole))
        attempt("three signals at any time, to the end of the run", code == 0 and same)


def test_the_same_arm_started_twice(make_run, nowhere, tmp_path):
    """Exactly one process trains; the other says who does, or finds the run finished."""
    for number in range(RACES):
        directory = make_run(tmp_path / str(number))
        racers = [started(directory, nowhere, tmp_path / f"{number}-{i}.log") for i in range(2)]
        for racer in racers:
            racer.join(200)
        codes = sorted(racer.exitcode for racer in racers)
        places = [(line.step, len(line.metrics)) for line in directory.records.read()]
        once = len(places) == len(set(places)) == 6
        attempt("the same arm started twice at once", codes in ([0, ExitCode.HELD], [0, 0]) and once)


def started(directory, store: Path, log: Path):
    """A worker's process that has been started."""
    variables = {"DETR_STORE": str(store), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    process = PROCESSES.Process(target=work, args=(str(directory.path), variables, None, str(log)))
    process.start()
    return process


def test_a_tracking_server_that_comes_and_goes(make_run, tmp_path):
    """Runs are trained and killed one after the other, while the server is killed and started again. In the end MLflow
    has every point of every run, once.
    """
    chance, deadline = random.Random(SEED), time.monotonic() + 60 * MINUTES
    (port,) = free_ports(1)
    folder = tmp_path / "client"
    folder.mkdir()
    text = (ROOT / "mlflow.yaml").read_text()
    (folder / "mlflow.yaml").write_text(text.replace("sqlite:///store/mlflow.db", f"http://127.0.0.1:{port}"))
    store, runs = folder / "mlflow.yaml", []
    more = partial(train_until, lambda number: make_run(tmp_path / "runs", name=f"arm {number}"), store, runs, chance)
    while time.monotonic() < deadline:
        with served(tmp_path, port):
            more(min(deadline, time.monotonic() + chance.uniform(20, 60)))
        more(min(deadline, time.monotonic() + chance.uniform(5, 30)))
    if runs[-1].status["state"] != "finished":
        assert worker(runs[-1].path, store) == 0
    with served(tmp_path, port):
        for _ in range(2):  # the second time there is nothing to send
            assert sync.sync(load_store(store), [tmp_path / "runs"]) == 0
    found = stored(tmp_path / "server" / "mlflow.yaml")
    for directory in runs:
        attempt("a run under a tracking server that is killed: every point in MLflow, once",
                found[directory.about["name"]] == expected(directory))  # fmt: skip


def train_until(make, store: Path, runs: list, chance: random.Random, end: float) -> None:
    """Train a run to its end, or until it is killed or stopped, and so on; one that was not finished goes on first."""
    while time.monotonic() < end:
        if not runs or runs[-1].status["state"] == "finished":
            runs.append(make(len(runs)))
        fault = chance.choice([(), ("record", chance.randint(1, 6), [KILL]), ("flush", chance.randint(1, 8), [KILL]),
                               ("micro-batch", chance.randint(1, 8), [int(signal.SIGTERM)])])  # fmt: skip
        code = worker(runs[-1].path, store, *fault)
        attempt("a run trained or killed while the tracking server comes and goes", code in (0, 3, -KILL))


@contextmanager
def served(folder: Path, port: int):
    """An MLflow server on a SQLite store, killed with all its processes when the block ends."""
    home = folder / "server"
    home.mkdir(exist_ok=True)
    (home / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    store = replace(load_store(home / "mlflow.yaml"), port=port)
    initialise(store)
    command = [sys.executable, "-m", "mlflow", "server", *server_arguments(store)]
    variables = os.environ | server_variables(store)
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
