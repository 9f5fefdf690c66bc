"""Train one run directory from its last checkpoint on, while a thread uploads it to MLflow.

    python -m experiments.runs.worker RUN_DIRECTORY

`launch` starts one of these for every run; started by hand, it resumes a single run, under a debugger as well.
Exit codes: 0 finished, 1 failed, 2 no run directory, 3 stopped and resumable, 4 another process is training it.
"""

import logging
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from detr.data import open_split
from detr.distributed import broadcast, launched, world_size
from detr.errors import ExitCode, InputError, LostProcess, UnavailableError, run_command
from detr.inference.draw import draw_samples
from detr.step import NonFiniteLoss
from detr.train import Record
from experiments.folders.lease import Held, Lease, owner
from experiments.runs.faults import explain
from experiments.runs.machine import recorded_use
from experiments.runs.ranks import become, lead
from experiments.runs.run_directory import RunDirectory
from experiments.runs.stop import Stop
from experiments.schema import names
from experiments.schema.store import Store, load_store
from experiments.tracking.client import configure_mlflow
from experiments.tracking.mirror import Uploader
from experiments.tracking.upload import left

EXIT_CODES = {"finished": ExitCode.DONE, "failed": ExitCode.FAILED, "stopped": ExitCode.STOPPED}
MAX_WARNINGS = 20  # kept in the status; worker.log has all


class Warnings(logging.Handler):
    """Handler that keeps the core's warnings in the run's status, and prints them."""

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__(logging.WARNING)
        self.directory = directory

    def __enter__(self) -> None:
        logging.getLogger("detr").addHandler(self)

    def __exit__(self, *exception: object) -> None:
        logging.getLogger("detr").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning and add it to the status."""
        print(f"warning: {record.getMessage()}", file=sys.stderr)
        warnings = [*self.directory.status.get("warnings", []), record.getMessage()]
        self.directory.update(warnings=warnings[-MAX_WARNINGS:])


def execute(
    directory: RunDirectory, store: Store, follow: Callable[[Iterator[Record]], str], keep_weights: bool = True
) -> str:
    """Train the run, following its records; returns its state. Held if another process is training it; LostProcess if
    the run's processes can do nothing more together.

    follow:        consumes the records and returns how they ended: finished, stopped or pruned; an exception: failed
    keep_weights:  if not, a run that ends leaves no weights, here or in MLflow: a sweep has many runs
    """
    with Lease(directory.path):
        if directory.status["state"] == "finished":
            return "finished"
        directory.begin()
        with Uploader(store, [directory.path]) as uploader:
            with recorded_use(directory.path), Warnings(directory):
                state, error, in_step = outcome(directory, follow)
            if not keep_weights and state in ("finished", "pruned"):
                discard_weights(directory)
            try:
                directory.update(state=state, error=error)
            except OSError as full:  # nothing can be written any more, not even that
                print(f"error: {state}: {error}; {explain(full)}", file=sys.stderr)
    if missing := left(directory.path):
        print(f"MLflow lacks {missing} of this run ({uploader.fault}); detr-sync sends them", file=sys.stderr)
    if not in_step:
        raise LostProcess(error or "interrupted")
    return state


def outcome(directory: RunDirectory, follow: Callable[[Iterator[Record]], str]) -> tuple[str, str, bool]:
    """Train the run; returns its state, its error, and whether all its processes ended it at the same point."""
    alone = world_size() == 1
    try:
        broadcast(str(directory.path))
        with closing(directory.train()) as records:
            state = follow(records)
        if state == "finished":
            draw_detections(directory)
        return state, "", True
    except KeyboardInterrupt:
        return "stopped", "", alone
    except LostProcess as loss:
        return "stopped", str(loss), False
    except Exception as failure:  # whatever a run dies of is kept with it, and the other runs go on
        if not isinstance(failure, InputError):
            traceback.print_exc()
            with suppress(OSError):  # the disk may be full, and the log be elsewhere
                (directory.path / names.FAILURE).write_text(traceback.format_exc())
        return "failed", explain(failure), alone or isinstance(failure, InputError | NonFiniteLoss)


def until_stopped(records: Iterator[Record], stop: Stop) -> str:
    """Follow a run to its end, or until it is asked to stop."""
    for record in records:
        if stop.requested and record.step < record.num_steps:
            return "stopped"
    return "finished"


def draw_detections(directory: RunDirectory) -> None:
    """Draw the detections of the last evaluation."""
    predictions, picture = directory.path / names.PREDICTIONS, directory.path / names.SAMPLES_PICTURE
    draw_samples(open_split(directory.config.data, "val"), predictions, picture)


def discard_weights(directory: RunDirectory) -> None:
    """Remove checkpoints and weights."""
    shutil.rmtree(directory.path / "checkpoints", ignore_errors=True)
    for path in directory.path.glob("best*.safetensors"):
        path.unlink()


def main(arguments: list[str]) -> int:
    """Execute the run directory that the command line names; returns the exit code."""
    configure_mlflow()
    # In the processes that torchrun started, the command that called this one loses what the run loses.
    passing = (LostProcess,) if world_size() > 1 else ()
    return run_command(lambda: train_named(arguments), passing)


def train_named(arguments: list[str]) -> int:
    """Train the run directory in all processes that it asks for; returns the exit code."""
    if len(arguments) != 1 or not (Path(arguments[0]) / names.CONFIG).is_file():
        raise InputError(f"give a run directory (it holds {names.CONFIG}), not {arguments}")
    directory = RunDirectory(Path(arguments[0]).resolve())
    store = load_store()
    if not launched() and (holder := owner(directory.path)):  # torchrun would not pass the exit code on
        raise Held(f"{directory.path} is being written by {holder}")
    become(directory.config.train.num_processes, ["experiments.runs.worker", str(directory.path)])
    try:
        with Stop().listen() as stop:
            follow = partial(until_stopped, stop=stop)
            return lead(lambda: EXIT_CODES[execute(directory, store, follow)])
    except OSError as error:
        raise UnavailableError(explain(error)) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
