"""One optimiser step: gradients of all micro-batches added up, clipped once, applied."""

import logging
import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from detr.criterion import Normalizers
from detr.data.batch import Batch
from detr.diagnostics.formulas import as_metrics, copy_weights, update_ratios
from detr.distributed import lost_process, no_exchange
from detr.errors import InputError
from detr.optim import clip_gradients
from detr.precision import autocast
from detr.seeds import derived_seed, seed_dropout
from detr.setup import Progress, Setup

log = logging.getLogger(__name__)
LOGGED_LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; the message names step and images, `bundle` holds what an inquiry needs."""

    def __init__(self, message: str, bundle: dict[str, Any]) -> None:
        super().__init__(message)
        self.bundle = bundle


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
