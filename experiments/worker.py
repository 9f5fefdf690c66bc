"""Executes one run directory: trains it from where it stands and mirrors it to MLflow.

    python -m experiments.worker RUN_DIRECTORY

`launch` starts one of these for every run; started by hand, it resumes a single run, under a debugger as well.
"""

import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock

from detr.checkpoint import checkpoint_step, checkpoints
from detr.config_io import flatten, to_dict
from detr.data import open_split
from detr.draw import draw_samples
from detr.errors import InputError
from detr.train import Record, train
from experiments import tracking
from experiments.rundir import RunDirectory
from experiments.store import load_store
from experiments.tracking import MetricStream, Tracker

SEND_SECONDS = 5.0  # between uploads of records
EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 3}


class Stop:
    """Set by SIGINT or SIGTERM; the run saves and leaves after the present step. A second signal interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listen(self) -> Iterator["Stop"]:
        """Handle the signals inside the block."""

        def handler(number: int, frame: object) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def execute(
    directory: RunDirectory, tracker: Tracker, follow: Callable[[Iterator[Record]], str], keep_weights: bool = True
) -> str:
    """Train the run, following its records; returns its state.

    `follow` consumes the records and says how they ended: finished, stopped or pruned. A failure ends them as failed.
    Without `keep_weights` a run that ends leaves no weights, here or in MLflow: a sweep has many runs.
    """
    stream = MetricStream(tracker, open_run(directory, tracker), directory)
    error = ""
    with tracker.system_metrics(stream.run_id):
        try:
            with closing(recorded(directory, stream)) as records:
                state = follow(records)
            if state == "finished":
                picture_detections(directory)
        except KeyboardInterrupt:
            state = "stopped"
        except InputError as mistake:
            state, error = "failed", str(mistake)
        except Exception as failure:  # whatever a run dies of is kept with it, and the other runs go on
            state, error = "failed", f"{type(failure).__name__}: {failure}"
            (directory.path / tracking.FAILURE).write_text(traceback.format_exc())
        if not keep_weights and state in ("finished", "pruned"):
            discard_weights(directory)
        publish(directory, stream, state, error)
    return state


def until_stopped(records: Iterator[Record], stop: Stop) -> str:
    """Follow a run to its end, or until it is asked to stop."""
    for record in records:
        if stop.requested and record.step < record.num_steps:
            return "stopped"
    return "finished"


def open_run(directory: RunDirectory, tracker: Tracker) -> str:
    """Mark the run as running, in its directory and in MLflow; its MLflow id."""
    about = directory.about
    tags = {
        tracking.ARM: about["arm"],
        tracking.SEED: str(directory.config.seed),
        tracking.FINGERPRINT: about["fingerprint"],
        tracking.RUN_DIRECTORY: str(directory.path),
    }
    run_id = tracker.open(directory.status.get("mlflow_run_id"), about["name"], tags, about["parent"])
    levels = {f"factor.{name}": level for name, level in about["levels"].items()}
    tracker.log_params(run_id, flatten(to_dict(directory.config)) | levels)
    directory.update(state="running", mlflow_run_id=run_id, error="")
    tracker.close(run_id, "running")
    return run_id


def recorded(directory: RunDirectory, stream: MetricStream) -> Iterator[Record]:
    """The records of training, each stored before it is passed on; they go on where the latest checkpoint is."""
    saved = checkpoints(directory.path / "checkpoints")
    directory.rewind(checkpoint_step(saved[-1]) if saved else 0)
    sent = time.monotonic()
    with closing(train(directory.config, directory.path)) as records:
        for record in records:
            directory.append(record)
            if time.monotonic() - sent > SEND_SECONDS:
                stream.send()
                sent = time.monotonic()
            yield record


def picture_detections(directory: RunDirectory) -> None:
    """Draw the detections of the last evaluation."""
    predictions, picture = directory.path / tracking.PREDICTIONS, directory.path / tracking.SAMPLES_PICTURE
    draw_samples(open_split(directory.config.data, "val"), predictions, picture)


def discard_weights(directory: RunDirectory) -> None:
    """Remove checkpoints and weights."""
    shutil.rmtree(directory.path / "checkpoints", ignore_errors=True)
    (directory.path / "best.safetensors").unlink(missing_ok=True)


def publish(directory: RunDirectory, stream: MetricStream, state: str, error: str) -> None:
    """Send what is left, files included, and close the run."""
    directory.update(state=state, error=error)
    tracker, run_id = stream.tracker, stream.run_id
    stream.send()
    for name in tracking.FILES:
        tracker.log_file(run_id, directory.path / name)
    tracker.log_file(run_id, directory.path / "best.safetensors", tracking.CHECKPOINTS)
    for last in checkpoints(directory.path / "checkpoints")[-1:]:
        tracker.log_file(run_id, last / "model.safetensors", f"{tracking.CHECKPOINTS}/last")
    tracker.close(run_id, state, error)


def main(arguments: list[str]) -> int:
    """Execute the run directory that the command line names; returns the exit code."""
    if len(arguments) != 1 or not (Path(arguments[0]) / tracking.CONFIG).is_file():
        print(f"error: give a run directory (it holds {tracking.CONFIG}), not {arguments}", file=sys.stderr)
        return 2
    directory = RunDirectory(Path(arguments[0]))
    with FileLock(directory.path / "lock"):  # one writer; the kernel frees it when that dies
        if directory.status["state"] == "finished":
            return 0
        with Stop().listen() as stop:
            return EXIT_CODES[execute(directory, Tracker(load_store()), partial(until_stopped, stop=stop))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
