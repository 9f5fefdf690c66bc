"""What tracking, diagnostics and checkpoints cost together: trainings with all of them, and with none, in turns.

    .venv/bin/python -m benchmarks.overhead

The built-in set and model on one thread, 450 steps and one evaluation: a tenth of an arm of the built-in ablation. What
is done once a run (its MLflow run, the settings, the last evaluation with its AP of every layer) counts ten times as
much here. Figures are CPU time of the process, the uploading thread included. benchmarks/diagnostics.py tells the part
of the diagnostics, step by step.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.diagnostics import configuration
from benchmarks.scaling import own_store
from benchmarks.table import Entry, ratio_and_spread
from detr.config import RunConfig
from detr.train import train
from experiments import tracking
from experiments.design import Run
from experiments.folder import Folder
from experiments.rundir import RunDirectory
from experiments.store import load_store
from experiments.uploader import Uploader


def tracked(config: RunConfig, root: Path) -> None:
    """A training as a run of an ablation has it: run directory, journal, checkpoints, MLflow."""
    above = Path(tempfile.mkdtemp(dir=root))
    Folder(above).update(state="running")
    Folder(above).track("overhead", {tracking.ABLATION: "overhead"}, experiment="ablations")
    directory = RunDirectory.create(Run("arm,seed=0", "arm", {}, config, "0", above / "arm" / "seed-0"), above)
    directory.begin()
    with Uploader(load_store(), [above, directory.path]) as uploader:
        for _ in directory.train():
            pass
        directory.update(state="finished", error="")
    assert not uploader.fault, uploader.fault


def bare(config: RunConfig) -> None:
    """The same training without anything beside it."""
    for _ in train(replace(config, train=replace(config.train, diagnostics=False))):
        pass


def entries(repetitions: int = 3, steps: int = 450) -> Iterator[Entry]:
    """The share of CPU time that all of them add."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store = os.environ.pop("DETR_STORE", None)
        own_store(root)
        config = configuration(root, steps, evaluations=1, num_val=300, every=200)
        works: dict[str, Callable[[], None]] = {"with": lambda: tracked(config, root), "without": lambda: bare(config)}
        short = replace(config, schedule=replace(config.schedule, horizon="2 steps"))
        tracked(short, root)  # draws the set, sets up the database, imports
        bare(short)
        seconds: dict[str, list[float]] = {key: [] for key in works}
        for i in range(repetitions):
            for key in works if i % 2 else reversed(works):
                begin = time.process_time()
                works[key]()
                seconds[key].append(time.process_time() - begin)
        os.environ.pop("DETR_STORE")
        if store:
            os.environ["DETR_STORE"] = store
    ratio, spread = ratio_and_spread(seconds["without"], seconds["with"])
    figures = {f"{key} (s)": statistics.median(values) for key, values in seconds.items()}
    work = f"{steps} steps and an evaluation of model=small data=shapes, one thread, CPU time"
    what = "tracking, diagnostics and checkpoints, share of a training"
    yield Entry(what, "training with them off", work, ratio - 1, spread, "below 0.03", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450)
    arguments = parser.parse_args()
    for entry in entries(arguments.repetitions, arguments.steps):
        print(f"{entry.what}: {entry.ratio:.3f} +- {entry.spread:.3f}; {entry.figures}")
