"""Signals that explain why a run went as it did: one small formula each, explained in docs/diagnostics.md.

`diagnostics.watch` applies them to a validation pass, `step` to the optimiser's steps. None of them draws a random
number or touches a gradient, so a run with diagnostics ends in the same weights as one without.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from detr.matcher import Match

DUPLICATE_SCORE = 0.5  # detections up to this score are not counted, neither as duplicates nor in the total
DUPLICATE_IOU = 0.5  # two boxes of one class that overlap by more show the same object

# The optimiser's steps


def copy_weights(optimizer: Optimizer) -> list[list[Tensor]]:
    """Copy the parameters, group by group."""
    return [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]


def update_ratios(optimizer: Optimizer, before: list[list[Tensor]]) -> dict[str, float]:
    """Compute norm(weights - before) / norm(before) over all parameters of a group, as "update_ratio_<group>".

    A group without parameters, or whose weights were all 0, has no ratio.
    """
    ratios = {}
    for group, old in zip(optimizer.param_groups, before, strict=True):
        weight = _norm(old)
        if weight > 0:
            update = _norm([p.detach() - q for p, q in zip(group["params"], old, strict=True)])
            ratios[f"update_ratio_{group['name']}"] = update / weight
    return ratios


def _norm(tensors: list[Tensor]) -> float:
    return torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors]).norm().item() if tensors else 0.0


def gradient_norms(norms: list[float]) -> dict[str, float]:
    """Compute log10 of median and 95th percentile of the norms before clipping; nothing without norms above 0."""
    if not norms:
        return {}
    median, high = torch.tensor(norms, dtype=torch.float64).quantile(torch.tensor([0.5, 0.95]).double()).tolist()
    found = {"grad_norm_log10_median": median, "grad_norm_log10_p95": high}
    return {name: math.log10(value) for name, value in found.items() if value > 0}


# The decoder


def attention_entropy(weights: Tensor, padding_mask: Tensor) -> Tensor:
    """Measure how widely the queries look: 1 for the same weight on every valid token, 0 for all weight on one.

    weights:       (B, heads, Q, T), summing to 1 over T and 0 on padding
    padding_mask:  (B, T), True on padding
    returns        (B,) -sum p log p / log(valid tokens), mean over heads and queries; NaN where there is one token only
    """
    entropy = -torch.xlogy(weights, weights).sum(-1).mean((1, 2))  # (B,) nats
    return entropy / (~padding_mask).sum(-1).log()  # 0 / 0 for a single token


def assigned_targets(matches: list[list[Match]], num_queries: int) -> Tensor:
    """Convert matches of L layers and B images to (L, B, Q) int16: index of the query's object in its image, or -1."""
    assigned = torch.full((len(matches), len(matches[0]), num_queries), -1, dtype=torch.int16)
    for layer, images in enumerate(matches):
        for image, (query, target) in enumerate(images):
            assigned[layer, image, query] = target.short()
    return assigned


def instability(before: Tensor, after: Tensor) -> Tensor:
    """Count the queries per image whose object changed (Li et al., 2022, DN-DETR, section 3.1).

    before, after:  (..., N, Q), the object's index or -1
    returns         (...), the mean over N images; an object that goes from one query to another counts twice
    """
    return (before != after).sum(-1).double().mean(-1)


# Detections


def duplicates(scores: Tensor, labels: Tensor, boxes: Tensor) -> tuple[int, int]:
    """Count detections above DUPLICATE_SCORE, and those that a better one of their class and image overlaps.

    scores, labels:  (B, Q)
    boxes:           (B, Q, 4) xyxy, pixels or fractions of the image alike
    returns          (detections, duplicates); of equal scores the query that comes first is the better one
    """
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    labels, boxes = labels.gather(1, order), boxes.gather(1, order[..., None].expand_as(boxes))
    low, high = boxes[..., :2], boxes[..., 2:]
    # (B, better, worse): the overlap exceeds the threshold times the union
    corner_low, corner_high = (
        torch.maximum(low[:, :, None], low[:, None]),
        torch.minimum(high[:, :, None], high[:, None]),
    )
    overlap = (corner_high - corner_low).clamp(min=0).prod(-1)
    area = (high - low).prod(-1)
    same = overlap > DUPLICATE_IOU * (area[:, :, None] + area[:, None] - overlap)
    same &= labels[:, :, None] == labels[:, None]
    shown = scores > DUPLICATE_SCORE  # a better one of a shown one is shown
    return int(shown.sum()), int((same.triu(1).any(1) & shown).sum())


class Variance:
    """Variance over images of values (..., K) that come in batches, summed over the K coordinates."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()).double(), torch.zeros(()).double()

    def add(self, values: Tensor) -> None:
        """Values (B, ..., K) of B more images, of a size of about 1."""
        values = values.detach().cpu().double()
        self.count += len(values)
        self.sum = self.sum + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def merge(self, other: "Variance") -> None:
        """Add the values of another one."""
        self.count, self.sum, self.squares = (
            self.count + other.count, self.sum + other.sum, self.squares + other.squares
        )  # fmt: skip

    @property
    def mean(self) -> Tensor:
        """(..., K)."""
        return self.sum / self.count

    @property
    def total(self) -> Tensor:
        """(...), the population variances summed over K."""
        return (self.squares / self.count - self.mean.square()).clamp(min=0).sum(-1)


def prediction_variance(boxes: Variance, classes: Variance, objects: Variance) -> dict[str, float]:
    """Measure how much the predictions of one query differ from image to image; both 0 when every image gets the same.

    boxes:    of (Q, 4) cxcywh in 0..1, in units of the variance of the `objects` (4,) of the set: 1 varies like them
    classes:  of (Q, C + 1) probabilities, in units of their largest variance at the same mean, that of sure decisions
    """
    found = {}
    if classes.count > 1:
        largest = (classes.mean * (1 - classes.mean)).sum()
        # The largest is 0 where every query is sure of one class for all images.
        found["prediction_variance_classes"] = (classes.total.sum() / largest).item() if largest != 0 else 0.0
    if boxes.count > 1 and objects.count > 1:
        found["prediction_variance_boxes"] = (boxes.total.mean() / objects.total).item()
    return found


def as_metrics(values: Mapping[str, float]) -> dict[str, float]:
    """Name the signals for a record. One that is not finite is left out."""
    return {f"diagnostics/{name}": value for name, value in values.items() if math.isfinite(value)}
