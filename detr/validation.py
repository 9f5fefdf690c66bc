"""Evaluation of a run in the course of training: its weights, and their moving average, on the validation set."""

import json
import math
import time
from contextlib import nullcontext
from pathlib import Path

from torch import nn

from detr.checkpoint import save_weights
from detr.diagnostics.formulas import as_metrics, gradient_norms
from detr.diagnostics.watch import ValidationWatch
from detr.distributed import gather, is_rank_zero, raise_on_all_ranks
from detr.evaluation import LOGGED_LOSSES, Detections, evaluate_coco, predict_dataset, validation_loader
from detr.extensions import call
from detr.optim import eval_mode, train_mode
from detr.setup import Progress, Setup


def evaluate(setup: Setup, progress: Progress, directory: Path | None) -> dict[str, float]:
    """Measure losses and COCO metrics on the validation set, as val/..., and diagnostics.

    The moving average of the weights, if there is one, is measured as well, as val/ema/... With a `directory` the
    predictions are kept there (predictions.json, predictions_ema.json), and of both kinds of weights those with the
    best AP of their own kind so far (best.safetensors, best_ema.safetensors). All ranks predict; rank zero measures,
    keeps and returns metrics.
    """
    begin = time.perf_counter()
    watch = None
    if setup.config.train.diagnostics:
        is_last = progress.step == setup.num_steps
        watch = ValidationWatch(
            setup.model, setup.criterion.matcher, setup.val_set, setup.config.train.probe_images, keep_layers=is_last
        )
    eval_mode(setup.optimizer)
    try:
        metrics = evaluate_weights(setup, setup.model, "", watch, directory)
        progress.best_AP = keep_best(setup.model, metrics, progress.best_AP, directory, "best.safetensors")
    finally:
        train_mode(setup.optimizer)
    if setup.ema is not None:
        averaged = evaluate_weights(setup, setup.ema.module, "_ema", None, directory)
        progress.best_ema_AP = keep_best(
            setup.ema.module, averaged, progress.best_ema_AP, directory, "best_ema.safetensors"
        )
        metrics |= {f"ema/{key}": value for key, value in averaged.items()}
    progress.evaluated = progress.step
    if not is_rank_zero():
        return {}
    signals = explain(setup, progress, watch, metrics.get("AP", -1.0), directory) if watch else {}
    return (
        {f"val/{key}": value for key, value in metrics.items()} | signals | {"val/seconds": time.perf_counter() - begin}
    )


def keep_best(model: nn.Module, metrics: dict[str, float], best: float, directory: Path | None, name: str) -> float:
    """Keep the weights if their AP is above the best so far; returns the best AP."""
    AP = metrics.get("AP", -1.0)
    if directory and best < AP:
        save_weights(directory / name, model)
    return max(AP, best)


def evaluate_weights(
    setup: Setup, model: nn.Module, suffix: str, watch: ValidationWatch | None, directory: Path | None
) -> dict[str, float]:
    """Losses, COCO metrics and the user's own of one kind of weights, by name; nothing on ranks but zero."""
    config = setup.config
    loader = validation_loader(setup.val_set, config.data, config.evaluation)
    with watch or nullcontext():
        predicted = raise_on_all_ranks(lambda: predict_dataset(model, loader, setup.criterion, setup.device, watch))
    parts = gather((*predicted, watch))
    if not parts:
        return {}
    detections = [detection for part in parts for detection in part[0]]
    losses = {key: sum(part[1].get(key, 0.0) for part in parts) for key in LOGGED_LOSSES}
    for *_, later in parts[1:]:
        if watch and later:
            watch.extend(later)
    if directory:
        keep_predictions(detections, directory / f"predictions{suffix}.json")
    metrics = evaluate_coco(
        setup.val_set.annotations, detections, config.evaluation.area_limits, config.evaluation.backend
    )
    found = {key: value for key, value in metrics.items() if value >= 0}  # -1: nothing of that kind to find
    return losses | found | own_metrics(setup, detections)


def own_metrics(setup: Setup, detections: Detections) -> dict[str, float]:
    """Call evaluation.extra; numbers that are not finite are left out."""
    path = setup.config.evaluation.extra
    if path is None:
        return {}
    found = call("evaluation.extra", path, setup.val_set.annotations, detections)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def keep_predictions(detections: Detections, path: Path) -> None:
    """Replace a file of predictions in one step."""
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_text(json.dumps(detections))
    beside.replace(path)


def explain(
    setup: Setup, progress: Progress, watch: ValidationWatch, last_AP: float, directory: Path | None
) -> dict[str, float]:
    """Name the diagnostics since the last evaluation, and keep the attention maps."""
    signals = watch.signals(progress.matching) | gradient_norms(progress.norms)
    signals |= watch.layer_AP(setup.config.evaluation, last_AP)
    progress.matching, progress.norms = watch.matching, []
    if directory:
        watch.maps.save(directory / "attention.safetensors", progress.step)
    return as_metrics(signals)
