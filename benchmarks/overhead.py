"""What tracking, diagnostics and checkpoints cost together: trainings with all of them, and with none, in turns. And
what tracking costs while its server is down.

    .venv/bin/python -m benchmarks.overhead

The built-in set and model on one thread, 450 steps and one evaluation: a tenth of an arm of the built-in ablation. What
is done once a run (its MLflow run, the settings, the last evaluation with its AP of every layer) counts ten times as
much here. Figures are CPU time of the process, the uploading thread included. benchmarks/diagnostics.py tells the part
of the diagnostics, step by step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
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
from experiments.store import ROOT, load_store
from experiments.uploader import Uploader

SQLITE, NOWHERE = "sqlite:///store/mlflow.db", "http://127.0.0.1:9"  # of mlflow.yaml; a server that is down


def tracked(config: RunConfig, root: Path, tracking_uri: str = SQLITE) -> float:
    """A training as a run of an ablation has it: run directory, journal, checkpoints, MLflow. Returns the CPU time of
    the uploading thread in s.
    """
    above = Path(tempfile.mkdtemp(dir=root))
    (above / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text().replace(SQLITE, tracking_uri))
    Folder(above).update(state="running")
    Folder(above).track("overhead", {tracking.ABLATION: "overhead"}, experiment="ablations")
    directory = RunDirectory.create(Run("arm,seed=0", "arm", {}, config, "0", above / "arm" / "seed-0"), above)
    directory.begin()
    with Uploader(load_store(above / "mlflow.yaml"), [above, directory.path]) as uploader:
        for _ in directory.train():
            pass
        threads = {thread.id: thread.user_time + thread.system_time for thread in psutil.Process().threads()}
        directory.update(state="finished", error="")
    assert bool(uploader.fault) == (tracking_uri == NOWHERE), uploader.fault
    return threads[uploader.thread.native_id]


def bare(config: RunConfig) -> None:
    """The same training without anything beside it."""
    for _ in train(replace(config, train=replace(config.train, diagnostics=False))):
        pass


def entries(repetitions: int = 3, steps: int = 450) -> Iterator[Entry]:
    """The share of CPU time that all of them add, and that of tracking alone while its server is down."""
    work = f"{steps} steps and an evaluation of model=small data=shapes, one thread, CPU time"
    down: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = configuration(root, steps, evaluations=1, num_val=300, every=200)
        works = {
            "with": lambda: tracked(config, root),
            "without": lambda: bare(config),
            "server down": lambda: down.append(tracked(config, root, NOWHERE)),
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
