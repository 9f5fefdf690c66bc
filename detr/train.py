"""Training as a generator of records: whoever iterates logs, reports, prunes or stops by closing it."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import AdamW
from torch.utils.data import DataLoader

from detr.checkpoint import load_latest, load_official, read_weights, save_checkpoint, save_weights
from detr.config import RunConfig
from detr.criterion import Normalizers, SetCriterion
from detr.data import CocoDetection, open_split
from detr.data.batch import Batch, StreamSampler, batches, collate
from detr.diagnostics import as_metrics, copy_weights, gradient_norms, update_ratios
from detr.distributed import LostProcess, Peers, check_device, lost_process, no_exchange
from detr.errors import InputError
from detr.evaluation import evaluate_coco, predict_dataset, validation_loader
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients, set_lr
from detr.precision import autocast, grad_scaler, seed_dropout, set_tf32
from detr.schedule import parse_horizon
from detr.seeds import derived_seed
from detr.validation_watch import ValidationWatch

log = logging.getLogger(__name__)
LOGGED_LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")


@dataclass(frozen=True)
class Record:
    """What one optimiser step, or the evaluation after it, has to tell."""

    step: int  # optimiser steps done
    num_steps: int  # of the whole run
    epoch: float  # training images seen, in units of the data set
    samples: int  # training images seen
    seconds: float  # of training, evaluation and saving since the run began, over all its sessions
    metrics: dict[str, float]  # "train/..." of the step or "val/..." of an evaluation, and "diagnostics/..."


@dataclass
class Progress:
    """The part of a run's state beside model and optimiser that a resume needs. Random numbers are no state: those of a
    micro-batch follow from the seed and its number.
    """

    step: int = 0
    seconds: float = 0.0
    clipped: int = 0  # steps whose gradient was scaled down
    scale_sum: float = 0.0  # of min(1, clip_norm / norm) over the steps
    skipped: int = 0  # steps left out because their gradient overflowed in float16
    best_AP: float = -1.0
    evaluated: int = 0  # step of the last evaluation
    norms: list[float] = field(default_factory=list)  # of the gradients since then, for the diagnostics
    matching: torch.Tensor | None = None  # (N, Q) of that evaluation, likewise
    quarantined: dict[int, str] = field(default_factory=dict)  # training images that could not be read -> why


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names step and images, `bundle` holds what an inquiry needs."""

    def __init__(self, message: str, bundle: dict[str, Any]) -> None:
        super().__init__(message)
        self.bundle = bundle


@dataclass
class Setup:
    """Everything that a run works with."""

    config: RunConfig
    device: torch.device
    train_set: CocoDetection
    val_set: CocoDetection
    model: nn.Module
    criterion: SetCriterion
    replica: nn.Module  # the model, as one of several processes runs it forward and backward
    optimizer: AdamW
    scaler: GradScaler  # of the loss; it does nothing unless the precision is float16
    num_steps: int
    peers: Peers


def prepare(config: RunConfig) -> Setup:
    """Open the data, build the model, load its starting weights. InputError when something does not fit."""
    peers = Peers.current()
    setup = peers.together(lambda: _prepare_alone(config, peers))
    setup.replica = peers.replicate(setup.model)
    return setup


def _prepare_alone(config: RunConfig, peers: Peers) -> Setup:
    config = replace(config, train=replace(config.train, num_processes=peers.size))
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    device = choose_device(config.train.device)
    check_device(device)
    if device.type == "cuda":
        set_tf32(config.train.precision == "tf32")
    elif config.train.precision == "tf32":
        raise InputError(f"train.precision='tf32' is a format of NVIDIA GPUs, and train.device is {device.type}")
    train_set, val_set = open_split(config.data, "train", config.seed), open_split(config.data, "val")
    if train_set.names != val_set.names:
        raise InputError(f"{train_set.annotations} and {val_set.annotations} have different categories")
    num_classes = config.model.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise InputError(
            f"model.num_classes={num_classes}: the data has {train_set.num_classes}; set null to take that"
        )
    torch.manual_seed(config.seed)
    model = build_model(replace(config.model, num_classes=num_classes))
    if config.model.init_from:
        load_official(model, read_weights(config.model.init_from))
    model.to(device)
    optim = config.optim
    optimizer = build_optimizer(model, optim.lr, optim.lr * optim.backbone_lr_ratio, optim.weight_decay)
    num_steps = parse_horizon(config.schedule.horizon).steps(
        len(train_set), config.train.batch_size * config.train.accumulate, config.schedule.full_epochs
    )
    criterion = SetCriterion(num_classes, config.loss).to(device)
    scaler = grad_scaler(device, config.train.precision)
    return Setup(config, device, train_set, val_set, model, criterion, model, optimizer, scaler, num_steps, peers)


def train(config: RunConfig, directory: Path | None = None) -> Iterator[Record]:
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


def train_step(setup: Setup, progress: Progress, micro_batches: list[Batch]) -> dict[str, float]:
    """One optimiser step over the micro-batches, whose losses add up to that of the whole effective batch."""
    config, optimizer, scaler = setup.config, setup.optimizer, setup.scaler
    own = [{"labels": t["labels"], "image_id": t["image_id"]} for batch in micro_batches for t in batch.targets]
    targets = [target for part in setup.peers.gather(own) for target in part]  # of the whole effective batch
    normalizers = setup.criterion.normalizers(targets, config.model.num_queries)
    sums = accumulate(setup, progress, micro_batches, normalizers)
    scaler.unscale_(optimizer)  # before clipping: the bound, and the norm that is logged, are the true gradient's
    norm = clip_gradients((p for group in optimizer.param_groups for p in group["params"]), config.optim.clip_norm)
    *losses, norm = torch.cat([sums, norm[None]]).tolist()  # the only wait for the device, but for the matcher's
    metrics = {f"train/{key}": value for key, value in zip(LOGGED_LOSSES, losses, strict=True)}
    skipped = not math.isfinite(norm) and scaler.get_scale() > 1  # the factor of other precisions is 1
    if not (math.isfinite(metrics["train/loss"]) and (math.isfinite(norm) or skipped)):
        image_ids = [target["image_id"] for target in targets]
        raise NonFiniteLoss(
            f"step {progress.step + 1}: the loss is {metrics['train/loss']}, the gradient norm {norm}; "
            f"images {', '.join(map(str, image_ids))}",
            {"step": progress.step + 1, "image_ids": image_ids, "losses": metrics, "grad_norm": norm},
        )
    measured = config.train.diagnostics and (progress.step + 1) % config.train.update_ratio_steps == 0
    before = copy_weights(optimizer) if measured else None
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if before:
        metrics |= as_metrics(update_ratios(optimizer, before))
    progress.step += 1
    main, backbone = optimizer.param_groups
    metrics |= {"train/lr": main["lr"], "train/lr_backbone": backbone["lr"]}
    return metrics | clipping(setup, progress, None if skipped else norm)


def clipping(setup: Setup, progress: Progress, norm: float | None) -> dict[str, float]:
    """Count what clipping did in this step and all before it; without a norm the step was left out."""
    bound = setup.config.optim.clip_norm
    if norm is None:
        progress.skipped += 1
    else:
        scale = min(1.0, bound / norm) if bound and norm > 0 else 1.0
        progress.clipped += scale < 1
        progress.scale_sum += scale
        if setup.config.train.diagnostics:
            progress.norms.append(norm)
    metrics = {"train/skipped_steps": float(progress.skipped)} if setup.scaler.is_enabled() else {}
    if taken := progress.step - progress.skipped:
        metrics |= {"train/clip_fraction": progress.clipped / taken, "train/clip_scale": progress.scale_sum / taken}
    return metrics if norm is None else metrics | {"train/grad_norm": norm}


def accumulate(setup: Setup, progress: Progress, micro_batches: list[Batch], normalizers: Normalizers) -> Tensor:
    """Add up the gradient of all micro-batches, those of other processes included; returns their LOGGED_LOSSES
    likewise. The scaler has its factor in the gradient, and not in the losses.
    """
    config, peers = setup.config, setup.peers
    if not setup.model.training:
        setup.model.train()  # it visits every module
    sums = torch.zeros(len(LOGGED_LOSSES), device=setup.device)
    first = progress.step * config.train.accumulate + peers.share(range(config.train.accumulate))[0]
    for number, batch in enumerate(micro_batches):
        seed_dropout(setup.device, derived_seed(config.seed, first + number))  # whichever process draws it
        batch = batch.to(setup.device)
        is_last = number == len(micro_batches) - 1
        with nullcontext() if is_last else no_exchange(setup.replica), lost_process():
            with autocast(setup.device, config.train.precision):
                outputs = setup.replica(batch.images, batch.padding_mask)
            losses = setup.criterion(outputs, batch.targets, normalizers)
            losses["loss"] = setup.criterion.total(losses)
            setup.scaler.scale(losses["loss"] * peers.size).backward()  # the exchange takes the mean over processes
        sums += torch.stack([losses[key].detach() for key in LOGGED_LOSSES])
    return peers.sum(sums)


def quarantine(setup: Setup, progress: Progress, micro_batches: list[Batch]) -> dict[str, float]:
    """Count the images that could not be read and were replaced. InputError when they are more than their share."""
    own = {k: v for batch in micro_batches for target in batch.targets for k, v in target["unreadable"].items()}
    found = {k: v for part in setup.peers.gather(own) for k, v in part.items()}
    for image_id in found.keys() - progress.quarantined.keys():
        log.warning("training image %d is replaced by the next one: %s", image_id, found[image_id])
    progress.quarantined |= found
    count, limit = len(progress.quarantined), setup.train_set.quarantine_limit
    if count > limit:
        raise InputError(
            f"{count} training images cannot be read, data.quarantine_share={setup.config.data.quarantine_share:g} "
            f"allows {limit} of {len(setup.train_set)}; the last one: {list(progress.quarantined.values())[-1]}"
        )
    return {"train/quarantined": float(count)} if count else {}


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
    metrics = evaluate_coco(setup.val_set.annotations, detections, config.evaluation.area_limits)
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
        signals |= watch.layer_AP(config.evaluation.area_limits, metrics["AP"])
        progress.matching, progress.norms = watch.matching, []
    return lost | found | as_metrics(signals) | {"val/seconds": time.perf_counter() - begin}


def record(setup: Setup, progress: Progress, metrics: dict[str, float]) -> Record:
    """The record of the present step."""
    samples = progress.step * setup.config.train.batch_size * setup.config.train.accumulate
    epoch = samples / len(setup.train_set)
    return Record(progress.step, setup.num_steps, epoch, samples, progress.seconds, metrics)


def train_loader(setup: Setup, first_step: int) -> DataLoader:
    """Micro-batches of all steps from `first_step` on, in one go: workers start once."""
    config = setup.config
    sampler = StreamSampler(
        len(setup.train_set),
        config.train.batch_size,
        config.train.accumulate,
        config.seed,
        first_step,
        setup.num_steps,
        setup.peers,
    )
    return DataLoader(
        setup.train_set,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.data.num_workers,
        pin_memory=setup.device.type == "cuda",
    )


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


def choose_device(name: str) -> torch.device:
    """The named device, or for "auto" the best there is. InputError when it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device={name!r} cannot be used ({str(error).splitlines()[0]})") from None
