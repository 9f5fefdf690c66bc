"""Workers in processes of their own, hit by a fault at a chosen place.

The processes are forked from a server that has imported everything, so that each takes a fraction of a second.
"""

import itertools
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - takes a second, and processes that use a SQLite store need it
import torch

import detr.checkpoint
import detr.train
import detr.validation
from detr.criterion import SetCriterion
from experiments.runs.worker import main

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["experiments.runs.worker", "mlflow.store.tracking.sqlalchemy_store"]
)  # what is installed

PLACES = {
    "micro-batch": (SetCriterion, "total"),  # once a micro-batch, and once a batch of a validation
    "record": (detr.train, "Record"),  # of each record, before it is written
    "validation": (detr.validation, "evaluate_coco"),
    "flush": (detr.checkpoint, "_flush"),  # of each file and folder of a checkpoint, and of the best weights
    "clean-up": (detr.checkpoint, "checkpoints"),  # after a checkpoint was renamed
}


def strike(place: str, count: int, fault: list) -> None:
    """Arrange that this process meets the fault at the count-th call of what PLACES names: signals that it gets, a
    command that runs, or an allocation that fails.
    """
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), itertools.count(1)

    def struck(*arguments: object, **named: object) -> object:
        if next(calls) == count:
            if fault == ["memory"]:
                torch.empty(2**50)
            elif isinstance(fault[0], str):
                subprocess.run(fault, check=True)
            else:
                for number in fault:
                    os.kill(os.getpid(), number)
        return original(*arguments, **named)

    setattr(owner, name, struck)


def work(directory: str, environment: dict[str, str], fault: tuple | None, log: str) -> None:
    """What a worker's process does."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # Workers that load data are forked, as in a process started by a user; from a server of their own they would start
    # late, and outlive a process that is killed.
    multiprocessing.set_start_method("fork", force=True)
    if fault:
        strike(*fault)
    sys.exit(main([directory]))


def worker(directory: Path, store: Path, *fault: object, log: Path | None = None, **environment: str) -> int:
    """Run a worker to its end; its exit code, negative for a signal. What it says goes to `log`."""
    variables = {"DETR_STORE": str(store), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"} | environment
    arguments = (str(directory), variables, fault or None, str(log or directory / "worker.log"))
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
    return process.exitcode
