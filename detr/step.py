"""One optimiser step: forward and backward over the micro-batches, clip once, step."""

import logging
import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from detr.criterion import Normalizers
from detr.data.batch import Batch
from detr.data.transforms import normalize
from detr.diagnostics.formulas import as_metrics, copy_weights, update_ratios
from detr.distributed import all_gather, all_reduce, lost_process, no_sync, rank, shard, world_size
from detr.errors import InputError
from detr.evaluation import LOGGED_LOSSES
from detr.optim import clip_gradients, learning_rates
from detr.precision import autocast
from detr.seeds import derived_seed, seed_dropout
from detr.setup import Progress, Setup

log = logging.getLogger(__name__)


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names step and images, `bundle` holds what an inquiry needs."""

    def __init__(self, message: str, bundle: dict[str, Any]) -> None:
        super().__init__(message)
        self.bundle = bundle


def train_step(setup: Setup, progress: Progress, micro_batches: list[Batch]) -> dict[str, float]:
    """Take one optimiser step over the micro-batches, whose losses add up to that of the whole effective batch.

    Returns the metrics of the step. NonFiniteLoss before the weights change when the loss is not finite.
    """
    config, optimizer, scaler = setup.config, setup.optimizer, setup.scaler
    own = [{"labels": t["labels"], "image_id": t["image_id"]} for batch in micro_batches for t in batch.targets]
    targets = [target for part in all_gather(own) for target in part]  # of the whole effective batch
    sums = forward_backward(setup, progress, micro_batches, setup.criterion.normalizers(targets))
    scaler.unscale_(optimizer)  # before clipping: the bound, and the norm that is logged, are the true gradient's
    norm = clip_gradients((p for group in optimizer.param_groups for p in group["params"]), config.optim.clip_norm)
    *values, norm = torch.cat([sums, norm[None]]).tolist()  # the only wait for the device, but for the matcher's
    losses = dict(zip(LOGGED_LOSSES, values, strict=True))
    skipped = not math.isfinite(norm) and scaler.get_scale() > 1  # the factor of other precisions is 1
    if not (math.isfinite(losses["loss"]) and (math.isfinite(norm) or skipped)):
        raise diverged(progress.step + 1, targets, losses, norm)
    measured = config.train.diagnostics and (progress.step + 1) % config.train.update_ratio_steps == 0
    before = copy_weights(optimizer) if measured else None
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    progress.step += 1
    update_ema(setup, progress.step)
    metrics = {f"train/{key}": value for key, value in losses.items()} | learning_rates(optimizer)
    if before:
        metrics |= as_metrics(update_ratios(optimizer, before))
    return metrics | clipping(setup, progress, None if skipped else norm)


def forward_backward(setup: Setup, progress: Progress, micro_batches: list[Batch], normalizers: Normalizers) -> Tensor:
    """Add up the gradient over all micro-batches, those of other ranks included; returns their LOGGED_LOSSES likewise.

    `normalizers` are those of the whole effective batch. The scaler has its factor in the gradient, not in the losses.
    """
    config = setup.config
    if not setup.model.training:
        setup.model.train()  # it visits every module
    sums = torch.zeros(len(LOGGED_LOSSES), device=setup.device)
    first = progress.step * config.train.accumulate + shard(range(config.train.accumulate), rank(), world_size())[0]
    for number, batch in enumerate(micro_batches):
        seed_dropout(setup.device, derived_seed(config.seed, first + number))  # whichever rank draws it
        batch = batch.to(setup.device)
        is_last = number == len(micro_batches) - 1
        with nullcontext() if is_last else no_sync(setup.replica), lost_process():
            with autocast(setup.device, config.train.precision):
                outputs = setup.replica(normalize(batch.images, batch.padding_mask), batch.padding_mask)
            losses = setup.criterion(outputs, batch.targets, normalizers)
            losses["loss"] = setup.criterion.total(losses)
            setup.scaler.scale(losses["loss"] * world_size()).backward()  # data_parallel takes the mean over ranks
        sums += torch.stack([losses[key].detach() for key in LOGGED_LOSSES])
    return all_reduce(sums)


def update_ema(setup: Setup, step: int) -> None:
    """Take the weights after `step` optimiser steps into their moving average, if there is one."""
    if setup.ema is not None:
        setup.ema.multi_avg_fn = get_ema_multi_avg_fn(ema_decay(setup.config.train.ema, step))
        setup.ema.update_parameters(setup.model)


def ema_decay(decay: float, step: int) -> float:
    """Decay at a step: (1 + step) / (10 + step) until that exceeds `decay`. So early averages span few steps."""
    return min(decay, (1 + step) / (10 + step))


def diverged(step: int, targets: list[dict], losses: dict[str, float], norm: float) -> NonFiniteLoss:
    """Name the step and its images, and bundle what an inquiry needs."""
    image_ids = [target["image_id"] for target in targets]
    metrics = {f"train/{key}": value for key, value in losses.items()}
    return NonFiniteLoss(
        f"step {step}: the loss is {losses['loss']}, the gradient norm {norm}; images {', '.join(map(str, image_ids))}",
        {"step": step, "image_ids": image_ids, "losses": metrics, "grad_norm": norm},
    )


def clipping(setup: Setup, progress: Progress, norm: float | None) -> dict[str, float]:
    """Count the steps that were clipped, this one included; without a norm the step was left out."""
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


def quarantine(setup: Setup, progress: Progress, micro_batches: list[Batch]) -> dict[str, float]:
    """Count the images that could not be read and were replaced. InputError when they are more than their share."""
    own = {k: v for batch in micro_batches for target in batch.targets for k, v in target["unreadable"].items()}
    found = {k: v for part in all_gather(own) for k, v in part.items()}
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
