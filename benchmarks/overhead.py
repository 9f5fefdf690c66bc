"""What tracking, diagnostics and checkpoints cost together: trainings with all of them, and with none, in turns. And
what tracking costs while its server is down.

    .venv/bin/python -m benchmarks.overhead

A tenth of an arm of the built-in ablation on one thread: 450 of 4500 steps and the evaluation after them. What is done
once a run (its MLflow run, the settings) counts ten times as much here; the store is there already. Figures are CPU
time of the process, the uploading thread included. benchmarks/diagnostics.py tells the part of the diagnostics.
"""

import argparse
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil

from benchmarks.diagnostics import configuration
from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.config import RunConfig
from detr.train import train
from experiments import tracking
from experiments.design import Run
from experiments.folder import Folder
from experiments.rundir import RunDirectory
from experiments.store import ROOT, Store, load_store
from experiments.uploader import Uploader

SQLITE, NOWHERE = "sqlite:///store/mlflow.db", "http://127.0.0.1:9"  # of mlflow.yaml; a server that is down


def tracked(config: RunConfig, steps: int, store: Store) -> float:
    """The first steps of a training as a run of an ablation has it: run directory, journal, checkpoints, MLflow.
    Returns the CPU time of the uploading thread in s.
    """
    store.run_root.mkdir(parents=True, exist_ok=True)
    above = Path(tempfile.mkdtemp(dir=store.run_root))
    Folder(above).update(state="running")
    Folder(above).track("overhead", {tracking.ABLATION: "overhead"}, experiment="ablations")
    directory = RunDirectory.create(Run("arm,seed=0", "arm", {}, config, "0", above / "arm" / "seed-0"), above)
    directory.begin()
    with Uploader(store, [above, directory.path]) as uploader:
        with closing(directory.train()) as records:
            deque(islice(records, steps + 1), maxlen=0)
        threads = {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}
        directory.update(state="stopped", error="")
    assert bool(uploader.fault) == (store.tracking_uri == NOWHERE), uploader.fault
    return threads[uploader.thread.native_id]


def bare(config: RunConfig, steps: int) -> None:
    """The same training without anything beside it."""
    with closing(train(replace(config, train=replace(config.train, diagnostics=False)))) as records:
        deque(islice(records, steps + 1), maxlen=0)


def store_at(folder: Path, tracking_uri: str = SQLITE) -> Store:
    """A store in a folder of its own."""
    folder.mkdir()
    (folder / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text().replace(SQLITE, tracking_uri))
    return load_store(folder / "mlflow.yaml")


def entries(repetitions: int = 3, steps: int = 450) -> Iterator[Entry]:
    """The share of CPU time that all of them add, and that of tracking alone while its server is down."""
    work = f"{steps} of {10 * steps} steps and an evaluation of model=small data=shapes, one thread, CPU time"
    down: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = configuration(root, 10 * steps, evaluations=10, num_val=300, every=200)
        store, none = store_at(root / "store"), store_at(root / "none", NOWHERE)
        works = {
            "with": lambda: tracked(config, steps, store),
            "without": lambda: bare(config, steps),
            "server down": lambda: down.append(tracked(config, steps, none)),
        }
        seconds = interleave(works, repetitions, time.process_time)
    ratio, spread = ratio_and_spread(seconds["without"], seconds["with"])
    figures = {f"{key} (s)": statistics.median(seconds[key]) for key in ("with", "without")}
    what = "tracking, diagnostics and checkpoints, share of a training"
    yield Entry(what, "training with them off", work, ratio - 1, spread, "below 0.03", figures)
    ratio, spread = ratio_and_spread(seconds["server down"], down[1:])  # the first one warmed up
    figures = {"thread (s)": statistics.median(down[1:]), "training (s)": statistics.median(seconds["server down"])}
    yield Entry("tracking while its server is down, share of a training", "the training", work, ratio, spread,
                "below 0.01", figures)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450)
    arguments = parser.parse_args()
    show(entries(arguments.repetitions, arguments.steps))
