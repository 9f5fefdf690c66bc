"""The diagnostics of a training in plain words, in the sections of docs/diagnostics.md."""

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """A metric that explains a run."""

    key: str  # of the metric; "<layer>" stands for a number
    title: str
    text: str  # what it is, what is healthy and what is ill


SECTIONS: dict[str, tuple[Signal, ...]] = {  # heading in docs/diagnostics.md -> its signals
    "Steps": (
        Signal(
            "train/clip_fraction",
            "clipped steps, share so far",
            "Steps whose gradient was longer than the clip norm and was scaled down. Two arms both at 1 differ by a "
            "factor that AdamW cancels.",
        ),
        Signal(
            "diagnostics/grad_norm_log10_median",
            "gradient norm, median (log10)",
            "Median of the gradient norms before clipping, since the evaluation before, as a power of ten: 1 stands "
            "for 10. Healthy: falls slowly.",
        ),
        Signal(
            "diagnostics/grad_norm_log10_p95",
            "gradient norm, p95 (log10)",
            "One step in twenty has a larger gradient. Healthy: within 0.5 of the median. More than 1 above: spikes.",
        ),
        Signal(
            "diagnostics/update_ratio_main",
            "step size, share of weights",
            "How far a step of the optimiser moves the weights, as a share of their norm. Healthy: 1e-4 to 3e-3. "
            "Above 1e-2 a step tears at the weights, below 1e-5 it stands still.",
        ),
        Signal(
            "diagnostics/update_ratio_backbone",
            "step size of the backbone",
            "The same for the backbone, which usually learns at a rate of its own. A frozen one has none.",
        ),
        Signal(
            "train/wait_fraction",
            "waiting for images, share",
            "Data time over the time of the whole step. Healthy: below 0.05. Above 0.2 the run is slow because of its "
            "data, which says nothing of the arm.",
        ),
    ),
    "Attention": (
        Signal(
            "diagnostics/attention_entropy_<layer>",
            "attention entropy, layer <layer>",
            "How widely the queries look: 1 is evenly over the image, 0 is at one spot. Healthy: starts near 1 and "
            "falls. Staying at 1, the decoder looks nowhere; falling to 0 early, it stares at one spot.",
        ),
    ),
    "Matching": (
        Signal(
            "diagnostics/matching_instability",
            "matching changes, evaluations",
            "Queries an image that have another object than at the evaluation before. Healthy: falls while the "
            "learning rate stays. Near twice the number of objects of an image, queries swap objects for ever. "
            "Compare arms with equally many steps between evaluations only.",
        ),
        Signal(
            "diagnostics/layer_instability_<layer>",
            "matching changes, layer <layer>",
            "Queries an image whose object changes from this decoder layer to the next. Late layers that still "
            "reassign undo each other's work.",
        ),
        Signal(
            "diagnostics/query_use",
            "queries used, share",
            "Queries that are given an object in any validation image. Far below 1, a few queries do all the work.",
        ),
        Signal(
            "diagnostics/no_object_matched",
            "no-object, matched queries",
            "Mean probability of no-object over the queries that are given an object. Healthy: falls towards 0. Near "
            "1 everything is taken for background.",
        ),
        Signal(
            "diagnostics/no_object_unmatched",
            "no-object, other queries",
            "Mean probability of no-object over the queries that are given none. Healthy: near 1. Where it falls, "
            "false detections come.",
        ),
    ),
    "Detections": (
        Signal(
            "diagnostics/duplicates",
            "duplicates, share",
            "Of the detections with a score above 0.5, those that overlap a better one of their class by more than "
            "half. Healthy: below 0.05 in the end.",
        ),
        Signal(
            "diagnostics/prediction_variance_boxes",
            "variance of boxes",
            "How much a query's box differs from image to image, in units of the objects' variance. Healthy: 0.1 to "
            "1. Below 0.01 every image gets the same boxes: the model has collapsed.",
        ),
        Signal(
            "diagnostics/prediction_variance_classes",
            "variance of classes",
            "How much a query's classes differ from image to image, in units of the largest possible. Healthy: rises "
            "to 0.2 and more. Below 0.01 every image gets the same classes.",
        ),
    ),
}
LAYER_AP = Signal(
    "diagnostics/AP_layer_<layer>",
    "AP x 100 by decoder layer",
    "AP of the outputs of each decoder layer at the last evaluation. Healthy: rises with the layer, little at the end.",
)


def present(section: str, keys: Collection[str]) -> list[Signal]:
    """The section's signals among the metrics that were logged, one for every layer."""
    found = []
    for signal in SECTIONS[section]:
        if "<layer>" not in signal.key:
            found += [signal] if signal.key in keys else []
            continue
        prefix = signal.key.removesuffix("<layer>")
        layers = sorted(int(key.removeprefix(prefix)) for key in keys if re.fullmatch(rf"{prefix}\d+", key))
        found += [Signal(f"{prefix}{i}", signal.title.replace("<layer>", str(i)), signal.text) for i in layers]
    return found


def explain(key: str) -> str | None:
    """What the metric means; None where it is no diagnostic."""
    every = [signal for section in SECTIONS.values() for signal in section] + [LAYER_AP]
    general = re.sub(r"_\d+$", "_<layer>", key)
    return next((signal.text for signal in every if signal.key in (key, general)), None)
