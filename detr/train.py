"""Training as a generator of records: whoever iterates logs, reports, prunes or stops by closing it."""

import json
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from detr.checkpoint import load_latest, save_checkpoint, save_weights
from detr.config import RunConfig
from detr.data.batch import batches
from detr.diagnostics.formulas import as_metrics, gradient_norms
from detr.diagnostics.watch import ValidationWatch
from detr.errors import InputError, LostProcess
from detr.evaluation import evaluate_coco, predict_dataset, validation_loader
from detr.optim import set_lr
from detr.setup import Progress, Setup, prepare, train_loader
from detr.step import LOGGED_LOSSES, NonFiniteLoss, quarantine, train_step


@dataclass(frozen=True)
class Record:
    """What one optimiser step, or the evaluation after it, has to tell."""

    step: int  # optimiser steps done
    num_steps: int  # of the whole run
    epoch: float  # training images seen, in units of the data set
    samples: int  # training images seen
    seconds: float  # of training, evaluation and saving since the run began, over all its sessions
    metrics: dict[str, float]  # "train/..." of the step or "val/..." of an evaluation, and "diagnostics/..."


def train(config: RunConfig, directory: Path | None = None) -> Generator[Record]:
    """Train and evaluate; yields a Record after every optimiser step and after every evaluation.

    With a `directory` the run resumes from its latest checkpoint there, and leaves `checkpoints/`, `best.safetensors`
    (by AP), and of the last evaluation `predictions.json` and `attention.safetensors`. Closing the generator saves a
    checkpoint first. A NonFiniteLoss leaves `crash.pt` (loads with weights_only): step, image ids, losses, gradient
    norms.

    Of several processes (`detr.distributed.join`) all iterate, and the first alone has metrics to tell and files to
    write. Where it stops they stop. LostProcess when one of them dies.
    """
    setup = prepare(config)
    config, optimizer, peers = setup.config, setup.optimizer, setup.peers
    progress = resume(setup, directory) if directory else Progress()
    evaluation_steps = evaluate_at(setup.num_steps, config.train.evaluations)
    stream = batches(train_loader(setup, progress.step))
    started = saved = time.monotonic()
    earlier = progress.seconds
    try:
        while True:
            # Evaluation comes first: a run may have been closed between a step and its evaluation.
            evaluated = progress.step in evaluation_steps and progress.evaluated < progress.step
            if evaluated:
                metrics = evaluate(setup, progress, directory)
                progress.seconds = earlier + time.monotonic() - started
                # Before the checkpoint that counts it as done: a kill between them repeats it, and loses nothing.
                yield record(setup, progress, metrics)
                if not peers.tell(True):
                    return
            due = evaluated or time.monotonic() - saved > 60 * config.train.checkpoint_minutes
            if directory and peers.first and due:
                save(setup, progress, directory)
                saved = time.monotonic()
            if progress.step >= setup.num_steps:
                return
            begin = time.perf_counter()
            set_lr(optimizer, config.optim, config.schedule, progress.step / setup.num_steps)
            micro_batches = peers.together(lambda: list(islice(stream, config.train.accumulate // peers.size)))
            loaded = time.perf_counter()
            metrics = quarantine(setup, progress, micro_batches)
            metrics |= train_step(setup, progress, micro_batches)
            metrics["train/data_time"] = loaded - begin
            metrics["train/step_time"] = time.perf_counter() - begin
            metrics["train/wait_fraction"] = metrics["train/data_time"] / metrics["train/step_time"]
            progress.seconds = earlier + time.monotonic() - started
            yield record(setup, progress, metrics)
            if not peers.tell(True):
                return
    except NonFiniteLoss as failure:
        if directory and peers.first:
            torch.save(failure.bundle | {"norms_before": progress.norms}, directory / "crash.pt")
        raise
    except (GeneratorExit, LostProcess) as end:  # a step that loses a process has not changed the model yet
        if directory and peers.first:
            save(setup, progress, directory)
        if isinstance(end, GeneratorExit):
            peers.tell(False)
        raise


def evaluate(setup: Setup, progress: Progress, directory: Path | None) -> dict[str, float]:
    """Losses and COCO metrics of the validation set; keeps the predictions, and the weights if they are the best.

    All processes predict, the first one measures and keeps.
    """
    begin = time.perf_counter()
    config, peers = setup.config, setup.peers
    loader = validation_loader(setup.val_set, config.data, config.evaluation, peers)
    watch = None
    if config.train.diagnostics:
        is_last = progress.step == setup.num_steps
        watch = ValidationWatch(
            setup.model, setup.criterion.matcher, setup.val_set, config.train.probe_images, keep_layers=is_last
        )
    with watch or nullcontext():
        found = peers.together(lambda: predict_dataset(setup.model, loader, setup.criterion, setup.device, watch))
    parts = peers.collect((*found, watch))
    progress.evaluated = progress.step
    if not peers.first:
        return {}
    detections = [d for part in parts for d in part[0]]
    losses = {key: sum(part[1].get(key, 0.0) for part in parts) for key in LOGGED_LOSSES}
    for *_, later in parts[1:]:
        if watch:
            watch.extend(later)
    metrics = evaluate_coco(
        setup.val_set.annotations, detections, config.evaluation.area_limits, config.evaluation.backend
    )
    if directory:
        beside = directory / "predictions.json.unfinished"
        beside.write_text(json.dumps(detections))
        beside.replace(directory / "predictions.json")
        if watch:
            watch.maps.save(directory / "attention.safetensors", progress.step)
    if metrics["AP"] > progress.best_AP:
        progress.best_AP = metrics["AP"]
        if directory:
            save_weights(directory / "best.safetensors", setup.model)
    found = {f"val/{key}": value for key, value in metrics.items() if value >= 0}  # -1: nothing of that kind to find
    lost = {f"val/{key}": value for key, value in losses.items()}
    signals = {}
    if watch:
        signals = watch.signals(progress.matching) | gradient_norms(progress.norms)
        signals |= watch.layer_AP(config.evaluation, metrics["AP"])
        progress.matching, progress.norms = watch.matching, []
    return lost | found | as_metrics(signals) | {"val/seconds": time.perf_counter() - begin}


def record(setup: Setup, progress: Progress, metrics: dict[str, float]) -> Record:
    """The record of the present step."""
    samples = progress.step * setup.config.train.batch_size * setup.config.train.accumulate
    epoch = samples / len(setup.train_set)
    return Record(progress.step, setup.num_steps, epoch, samples, progress.seconds, metrics)


def evaluate_at(num_steps: int, evaluations: int) -> set[int]:
    """Steps after which to evaluate: evenly spaced, the last one always among them."""
    return {max(1, round(num_steps * i / evaluations)) for i in range(1, evaluations + 1)}


def save(setup: Setup, progress: Progress, directory: Path) -> None:
    """Write a checkpoint of the present step."""
    state = {
        "progress": vars(progress),
        "optimizer": setup.optimizer.state_dict(),
        "scaler": setup.scaler.state_dict(),
    }
    save_checkpoint(directory / "checkpoints", progress.step, setup.model, state)


def resume(setup: Setup, directory: Path) -> Progress:
    """Restore the latest sound checkpoint in place; a fresh Progress where there is none."""
    peers = setup.peers
    if not peers.first:
        peers.tell(None)  # waits: the first one sets damaged checkpoints aside
    state = load_latest(directory / "checkpoints", setup.model)
    if peers.first:
        peers.tell(None)
    progress = Progress(**state["progress"]) if state else Progress()
    if state:
        setup.optimizer.load_state_dict(state["optimizer"])
        setup.scaler.load_state_dict(state.get("scaler", {}))  # older checkpoints have none, and need none
    steps = peers.gather(progress.step)
    if len(set(steps)) > 1:
        raise InputError(f"{directory}: the processes find checkpoints of the steps {steps}; all need the same folder")
    return progress
