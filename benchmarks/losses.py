"""Matching and losses against the loop over layers that the official code has, and against transformers' DETR.

    .venv/bin/python -m benchmarks.losses

Batch 16, 100 queries, 91 classes, 6 decoder layers, 20 objects an image: matching, all losses, and their gradient with
respect to logits and boxes.
"""

import argparse
import importlib
import statistics
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.criterion import SetCriterion

BATCH, QUERIES, CLASSES, LAYERS, OBJECTS = 16, 100, 91, 6, 20
WORK = f"batch {BATCH}, {OBJECTS} objects an image, {LAYERS} layers, {QUERIES} queries; forward and backward"


def draw() -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Outputs as DETR gives them, with gradients, and targets."""
    logits = torch.randn(LAYERS, BATCH, QUERIES, CLASSES + 1).requires_grad_()
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4).mul_(0.5).add_(0.1).requires_grad_()
    layers = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
    targets = [
        {"labels": torch.randint(CLASSES, (OBJECTS,)), "boxes": torch.rand(OBJECTS, 4) * 0.5 + 0.1}
        for _ in range(BATCH)
    ]
    return {**layers[-1], "aux_outputs": layers[:-1]}, targets


# The peer: every layer and every loss by itself, and the costs of all images with the objects of all images


def match_layer(layer: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The assignment of one layer."""
    batch, queries = layer["pred_logits"].shape[:2]
    with torch.no_grad():
        probability = layer["pred_logits"].flatten(0, 1).softmax(-1)
        boxes = layer["pred_boxes"].flatten(0, 1)
        labels = torch.cat([t["labels"] for t in targets])
        objects = torch.cat([t["boxes"] for t in targets])
        giou = generalized_box_iou(corners(boxes), corners(objects))
        cost = 5 * torch.cdist(boxes, objects, p=1) - probability[:, labels] - 2 * giou
        parts = cost.view(batch, queries, -1).cpu().split([len(t["boxes"]) for t in targets], -1)
        found = [linear_sum_assignment(part[i]) for i, part in enumerate(parts)]
    return [(torch.as_tensor(i), torch.as_tensor(j)) for i, j in found]


def corners(boxes: Tensor) -> Tensor:
    """(n, 4) centre and size -> (n, 4) corners."""
    return box_convert(boxes, "cxcywh", "xyxy")


def layer_losses(
    layer: dict[str, Tensor], targets: list[dict[str, Tensor]], num_boxes: float, weight: Tensor
) -> dict[str, Tensor]:
    """The losses of one layer."""
    matches = match_layer(layer, targets)
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(matches)])
    query = torch.cat([query for query, _ in matches])
    logits = layer["pred_logits"]
    matched = torch.cat([t["labels"][j] for t, (_, j) in zip(targets, matches, strict=True)])
    classes = torch.full(logits.shape[:2], CLASSES, dtype=torch.int64)
    classes[image, query] = matched
    boxes = layer["pred_boxes"][image, query]
    objects = torch.cat([t["boxes"][j] for t, (_, j) in zip(targets, matches, strict=True)])
    with torch.no_grad():
        predicted = (logits.argmax(-1) != CLASSES).sum(1).float()
        cardinality = F.l1_loss(predicted, torch.tensor([float(len(t["labels"])) for t in targets]))
        class_error = 100 - 100 * (logits[image, query].argmax(-1) == matched).float().mean()
    return {
        "loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, weight),
        "loss_bbox": F.l1_loss(boxes, objects, reduction="none").sum() / num_boxes,
        "loss_giou": (1 - torch.diag(generalized_box_iou(corners(boxes), corners(objects)))).sum() / num_boxes,
        "cardinality_error": cardinality,
        "class_error": class_error,
    }


def looped_total(outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> Tensor:
    """The weighted sum over layers and losses."""
    num_boxes = max(float(sum(len(t["labels"]) for t in targets)), 1.0)
    weight = torch.ones(CLASSES + 1)
    weight[-1] = 0.1
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    layers = [layer_losses(layer, targets, num_boxes, weight) for layer in [outputs, *outputs["aux_outputs"]]]
    return sum(weights[key] * layer[key] for layer in layers for key in weights)


def transformers_total(outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> Tensor:
    """The loss function that transformers' models call."""
    loss_function = importlib.import_module("transformers.loss.loss_for_object_detection").ForObjectDetectionLoss
    config = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, num_labels=CLASSES, eos_coefficient=0.1, auxiliary_loss=True,
        decoder_layers=LAYERS, bbox_loss_coefficient=5, giou_loss_coefficient=2,
    )  # fmt: skip
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    stacked = (
        torch.stack([x[key] for x in [*outputs["aux_outputs"], outputs]]) for key in ("pred_logits", "pred_boxes")
    )
    return loss_function(outputs["pred_logits"], labels, torch.device("cpu"), outputs["pred_boxes"], config, *stacked)[
        0
    ]


def entries(repetitions: int = 20) -> Iterator[Entry]:
    """Ours against the loop, and against transformers."""
    torch.manual_seed(0)
    outputs, targets = draw()
    leaves = [x for layer in [*outputs["aux_outputs"], outputs] for x in (layer["pred_logits"], layer["pred_boxes"])]
    criterion = SetCriterion(CLASSES)
    totals = {
        "ours": lambda: criterion.total(criterion(outputs, targets)),
        "a loop over layers and losses": lambda: looped_total(outputs, targets),
        "transformers' loss": lambda: transformers_total(outputs, targets),
    }
    for total in totals.values():
        torch.testing.assert_close(total(), totals["ours"](), rtol=1e-5, atol=1e-5)  # they do the same work
    works = {name: lambda total=total: torch.autograd.grad(total(), leaves) for name, total in totals.items()}
    seconds = interleave(works, repetitions)
    for peer in list(works)[1:]:
        figures = {f"{name} (ms)": 1000 * statistics.median(seconds[name]) for name in ("ours", peer)}
        ratio, spread = ratio_and_spread(seconds["ours"], seconds[peer])
        yield Entry("matching and losses", peer, WORK, ratio, spread, "2.5 x", figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    show(entries(parser.parse_args().repetitions))
