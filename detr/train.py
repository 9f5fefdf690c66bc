"""Training as a generator of records: whoever iterates logs, reports, prunes or stops by closing it."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from detr.checkpoint import load_latest, save_checkpoint
from detr.config import RunConfig
from detr.data.batch import Batch, batches
from detr.distributed import all_gather, in_lockstep, is_rank_zero, raise_on_all_ranks, rank_zero_first, world_size
from detr.errors import InputError, LostProcess
from detr.optim import load_optimizer, set_lr
from detr.schedule import lr_factor
from detr.setup import Progress, Setup, prepare, train_loader
from detr.step import NonFiniteLoss, quarantine, train_step
from detr.validation import evaluate


@dataclass(frozen=True)
class Record:
    """Metrics of one optimiser step, or of the evaluation after it."""

    step: int  # optimiser steps done
    num_steps: int  # of the whole run
    epoch: float  # training images seen, in units of the data set
    samples: int  # training images seen
    seconds: float  # of training, evaluation and saving since the run began, over all its sessions
    metrics: dict[str, float]  # "train/..." of the step or "val/..." of an evaluation, and "diagnostics/..."


def train(config: RunConfig, directory: Path | None = None) -> Generator[Record]:
    """Train and evaluate; yields a Record after every optimiser step and after every evaluation.

    With a `directory` the run resumes from its latest checkpoint there, and leaves `checkpoints/`, `best.safetensors`
    (by AP), and of the last evaluation `predictions.json` and `attention.safetensors`; with train.ema also
    `best_ema.safetensors` and `predictions_ema.json`. Closing the generator saves a checkpoint first. A NonFiniteLoss
    leaves `crash.pt` (loads with weights_only): step, image ids, losses, gradient norms.

    On several ranks (`detr.distributed.process_group`) all iterate, and rank zero alone has metrics to tell and files
    to write. Where it stops they stop. LostProcess when one of them dies.
    """
    setup = prepare(config)
    progress = resume(setup, directory) if directory else Progress()
    yield from in_lockstep(steps(setup, progress, directory))


def steps(setup: Setup, progress: Progress, directory: Path | None) -> Generator[Record, None, None]:
    """Train this rank's part of the run from the present step to the last."""
    config = setup.config
    clock = Clock(progress.seconds)
    checkpoints = Checkpoints(setup, progress, directory)
    evaluations = evaluate_at(setup.num_steps, config.train.evaluations)

    def record(metrics: dict[str, float]) -> Record:
        progress.seconds = clock.seconds
        samples = progress.step * config.train.batch_size * config.train.accumulate
        return Record(
            progress.step, setup.num_steps, samples / len(setup.train_set), samples, progress.seconds, metrics
        )

    def evaluate_and_save_when_due() -> Generator[Record, None, None]:
        is_evaluated = progress.step in evaluations and progress.evaluated < progress.step
        if is_evaluated:
            # Before the checkpoint that counts it as done: a kill between them repeats it, and loses nothing.
            yield record(evaluate(setup, progress, directory))
        if is_evaluated or checkpoints.due:
            checkpoints.save()

    try:
        yield from evaluate_and_save_when_due()  # left undone by a session that was closed right after its last step
        stream = batches(train_loader(setup, progress.step))
        while progress.step < setup.num_steps:
            set_lr(setup.optimizer, lr_factor(config.schedule, progress.step / setup.num_steps))
            clock.start_step()
            micro_batches = next_micro_batches(setup, stream)
            clock.stop_loading()
            metrics = quarantine(setup, progress, micro_batches) | train_step(setup, progress, micro_batches)
            yield record(metrics | clock.step_metrics())
            yield from evaluate_and_save_when_due()
    except NonFiniteLoss as failure:
        if directory and is_rank_zero():
            torch.save(failure.bundle | {"norms_before": progress.norms}, directory / "crash.pt")
        raise
    except (GeneratorExit, LostProcess):  # a step that loses a process has not changed the model yet
        checkpoints.save()
        raise


def next_micro_batches(setup: Setup, stream: Iterator[Batch]) -> list[Batch]:
    """Load this rank's micro-batches of one step."""
    return raise_on_all_ranks(lambda: list(islice(stream, setup.config.train.accumulate // world_size())))


def evaluate_at(num_steps: int, evaluations: int) -> set[int]:
    """Choose the steps after which to evaluate: evenly spaced, the last one always among them."""
    return {max(1, round(num_steps * i / evaluations)) for i in range(1, evaluations + 1)}


class Clock:
    """Seconds of a run over all its sessions, and of its present step."""

    def __init__(self, earlier: float) -> None:
        """`earlier`: seconds of the sessions before this one."""
        self._start = time.monotonic() - earlier
        self._step_start = self._loaded = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began, in units of the sessions' own time."""
        return time.monotonic() - self._start

    def start_step(self) -> None:
        """Begin to load."""
        self._step_start = time.perf_counter()

    def stop_loading(self) -> None:
        """Begin to compute."""
        self._loaded = time.perf_counter()

    def step_metrics(self) -> dict[str, float]:
        """Seconds of loading and of the whole step until now, and their ratio."""
        data, step = self._loaded - self._step_start, time.perf_counter() - self._step_start
        return {"train/data_time": data, "train/step_time": step, "train/wait_fraction": data / step}


class Checkpoints:
    """Checkpoints of a run in its directory, saved by rank zero; none without a directory."""

    def __init__(self, setup: Setup, progress: Progress, directory: Path | None) -> None:
        self.setup, self.progress, self.directory = setup, progress, directory
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether train.checkpoint_minutes have passed since the last one."""
        return time.monotonic() - self._saved > 60 * self.setup.config.train.checkpoint_minutes

    def save(self) -> None:
        """Write the present state. Weights are those that the optimiser trains, also of schedule-free ones: switching
        them back and forth would round them.
        """
        if self.directory is None or not is_rank_zero():
            return
        state = {
            "progress": vars(self.progress),
            "optimizer": self.setup.optimizer.state_dict(),
            "scaler": self.setup.scaler.state_dict(),
        }
        if self.setup.ema is not None:
            state["ema"] = self.setup.ema.state_dict()
        save_checkpoint(self.directory / "checkpoints", self.progress.step, self.setup.model, state)
        self._saved = time.monotonic()


def resume(setup: Setup, directory: Path) -> Progress:
    """Restore the latest sound checkpoint in place; a fresh Progress where there is none."""
    with rank_zero_first():  # it sets damaged checkpoints aside
        state = load_latest(directory / "checkpoints", setup.model)
    progress = Progress(**state["progress"]) if state else Progress()
    if state:
        load_optimizer(setup.optimizer, state["optimizer"])
        setup.scaler.load_state_dict(state.get("scaler", {}))  # older checkpoints have none, and need none
        if setup.ema is not None:
            setup.ema.load_state_dict(state["ema"])
    found = all_gather(progress.step)
    if len(set(found)) > 1:
        raise InputError(f"{directory}: the processes find checkpoints of the steps {found}; all need the same folder")
    return progress
