"""What tracking, diagnostics and checkpoints cost together: a training with all of them, and the same with none. And
what tracking costs while its server is down.

    .venv/bin/python -m benchmarks.overhead                a whole arm of the built-in ablation, one thread (9 min)
    .venv/bin/python -m benchmarks.overhead --steps 450    a short one, in which what is done once a run weighs more

The run is executed as by the worker that `launch` starts, but for the start of its process and its imports, which take
a few seconds once a run; the store is there already. The two trainings take turns record by record, so that what else
the machine does falls on both, and uploads and samples of the machine's use are twice as far apart. Figures are CPU
time, of the threads beside the training too; the spread is that over the tenths of the one run.
benchmarks/diagnostics.py tells the part of the diagnostics.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

from benchmarks.diagnostics import configuration
from benchmarks.table import Entry, ratio_and_spread, show
from detr.config import RunConfig
from detr.train import Record, train
from experiments.definition.arms import Run
from experiments.folders.files import Folder
from experiments.runs import machine
from experiments.runs.run_directory import RunDirectory
from experiments.runs.worker import execute
from experiments.schema import names
from experiments.schema.store import ROOT, Store, load_store
from experiments.tracking import mirror
from experiments.tracking.client import configure_mlflow
from experiments.tracking.upload import left

SQLITE, NOWHERE = "sqlite:///store/mlflow.db", "http://127.0.0.1:9"  # of mlflow.yaml; a server that is down
EVALUATIONS = 10


def run_directory(config: RunConfig, store: Store) -> RunDirectory:
    """A run of an ablation that has nothing else."""
    store.run_root.mkdir(parents=True, exist_ok=True)
    above = Path(tempfile.mkdtemp(dir=store.run_root))
    Folder(above).update(state="running")
    Folder(above).track("overhead", {names.ABLATION: "overhead"}, experiment="ablations")
    return RunDirectory.create(Run("arm,seed=0", "arm", {}, config, "0", above / "arm" / "seed-0"), above)


def in_turns(config: RunConfig, store: Store) -> list[tuple[float, float]]:
    """CPU time in s of a run and of the bare training, from each evaluation to the next, the end with the last."""
    directory, seconds = run_directory(config, store), 0.0
    bare = train(replace(config, train=replace(config.train, diagnostics=False)))
    marks = [(time.process_time(), 0.0)]

    def follow(records: Iterator[Record]) -> str:
        nonlocal seconds
        for record in records:
            begin = time.thread_time()
            other = next(bare)
            seconds += time.thread_time() - begin
            loss = "val/loss" if "val/loss" in record.metrics else "train/loss"
            assert record.metrics[loss] == other.metrics[loss], "they are not the same training"
            if loss == "val/loss":
                marks.append((time.process_time(), seconds))
        return "finished"

    with (
        mock.patch.object(mirror, "SEND_SECONDS", 2 * mirror.SEND_SECONDS),
        mock.patch.object(machine, "SAMPLE_SECONDS", 2 * machine.SAMPLE_SECONDS),
    ):
        assert execute(directory, store, follow) == "finished"
    assert not left(directory.path), "MLflow has not got everything"
    marks[-1] = time.process_time(), seconds
    parts = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in pairwise(marks)]
    return [(both - alone, alone) for both, alone in parts]


def vain_uploads(config: RunConfig, store: Store, steps: int) -> tuple[float, float]:
    """CPU time in s of a run's first steps, and of all attempts to upload."""
    directory, uploading, send = run_directory(config, store), 0.0, mirror.Uploader._send

    def timed_send(self: mirror.Uploader) -> None:
        nonlocal uploading
        begin = time.thread_time()
        send(self)
        uploading += time.thread_time() - begin

    def follow(records: Iterator[Record]) -> str:
        return next("stopped" for record in records if record.step == steps)

    begin = time.process_time()
    with mock.patch.object(mirror.Uploader, "_send", timed_send):
        assert execute(directory, store, follow) == "stopped"
    assert left(directory.path), "MLflow was there"
    return time.process_time() - begin - uploading, uploading


def store_at(folder: Path, tracking_uri: str = SQLITE) -> Store:
    """A store in a folder of its own."""
    folder.mkdir()
    (folder / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text().replace(SQLITE, tracking_uri))
    return load_store(folder / "mlflow.yaml")


def entries(steps: int = 4500) -> Iterator[Entry]:
    """The share of CPU time that all of them add, and that of the uploads while MLflow's server is down."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store, nowhere = store_at(root / "store"), store_at(root / "nowhere", NOWHERE)
        in_turns(configuration(root, 2, evaluations=1, num_val=300, every=1), store)  # makes the store, warms up
        config = configuration(root, steps, EVALUATIONS, num_val=300, every=200)
        parts = in_turns(config, store)
        training, uploading = vain_uploads(config, nowhere, steps // EVALUATIONS)
    work = "model=small data=shapes, one thread, CPU time"
    run, bare = map(sum, zip(*parts, strict=True))
    _, spread = ratio_and_spread([alone for _, alone in parts], [both for both, _ in parts])
    (first, first_bare), *_ = parts
    figures = {"with (s)": run, "without (s)": bare, "first tenth, with (s)": first}
    figures["first tenth, without (s)"] = first_bare
    yield Entry("tracking, diagnostics and checkpoints, share of a training", "training with them off",
                f"{steps} steps and {EVALUATIONS} evaluations of {work}", run / bare - 1, spread,
                "below 0.03", figures)  # fmt: skip
    yield Entry("tracking while its server is down, share of a training", "the training",
                f"{steps // EVALUATIONS} of {steps} steps of {work}", uploading / training, None,
                "below 0.01", {"uploads (s)": uploading, "training (s)": training})  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4500)
    configure_mlflow()
    given = parser.parse_args()
    if given.steps < EVALUATIONS:
        parser.error(f"--steps {given.steps}: give {EVALUATIONS} at least, one for each evaluation")
    show(entries(given.steps))
