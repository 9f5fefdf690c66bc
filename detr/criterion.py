"""The set loss (facebookresearch/detr, models/detr.py: SetCriterion), for all decoder layers at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.config import LossConfig
from detr.matcher import HungarianMatcher, Match, stack_layers


@dataclass(frozen=True)
class Normalizers:
    """Denominators of the losses. All depend on the targets alone.

    Losses of the parts of a batch that share the normalisers of the whole batch add up to the whole batch's losses;
    so accumulated micro-batches and the ranks of a distributed run equal one large batch exactly.
    """

    num_boxes: float  # objects, at least 1: of the box losses
    class_weight: float  # sum of the class weights over all images and queries: of the cross-entropy
    num_matched: float  # objects that get a query: of the class error
    num_images: float  # of the cardinality error


class SetCriterion(nn.Module):
    """Cross-entropy over all queries, L1 and GIoU over the matched ones."""

    def __init__(self, num_classes: int, config: LossConfig | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = config or LossConfig()
        self.matcher = HungarianMatcher.from_config(self.config)
        class_weight = torch.ones(num_classes + 1)
        class_weight[num_classes] = self.config.no_object_weight
        self.register_buffer("class_weight", class_weight, persistent=False)

    def normalizers(self, targets: list[dict[str, Tensor]], num_queries: int) -> Normalizers:
        """The denominators of a batch (one entry of `targets` an image), however it is split afterwards."""
        sizes = [len(t["labels"]) for t in targets]
        matched = sum(min(n, num_queries) for n in sizes)
        empty = len(targets) * num_queries - matched
        return Normalizers(
            num_boxes=max(float(sum(sizes)), 1.0),
            # 0 where nothing has a weight: no object, and no_object_weight=0
            class_weight=matched + empty * self.config.no_object_weight or 1.0,
            num_matched=float(matched),
            num_images=float(len(targets)),
        )

    def forward(
        self, outputs: dict, targets: list[dict[str, Tensor]], normalizers: Normalizers | None = None
    ) -> dict[str, Tensor]:
        """All losses, unweighted.

        outputs:      as DETR.forward returns them
        targets:      per image labels (n,) and boxes (n, 4) cxcywh in 0..1
        normalizers:  of the whole effective batch; by default of this batch alone
        returns       loss_ce, loss_bbox, loss_giou, cardinality_error of the last layer, and of the layers before it
                      with "_0".."_{L-2}"; class_error in percent of the matched objects, NaN when there are none
        """
        logits, boxes = stack_layers(outputs if self.config.aux_loss else {**outputs, "aux_outputs": []})
        targets = [{"labels": t["labels"], "boxes": t["boxes"].float()} for t in targets]
        n = normalizers or self.normalizers(targets, logits.shape[2])
        matches = self.matcher.match_layers(logits, boxes, targets)
        layer, image, query, target = _flat_indices(matches, targets, logits.device)
        labels = torch.cat([t["labels"] for t in targets])[target]  # (M,) objects of all layers and images
        target_boxes = torch.cat([t["boxes"] for t in targets])[target]  # (M, 4)

        classes = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
        classes[layer, image, query] = labels
        cross_entropy = F.cross_entropy(
            logits.movedim(-1, 1).float(), classes, self.class_weight.to(logits.device), reduction="none"
        )  # (L, B, Q)
        matched_boxes = boxes[layer, image, query].float()  # (M, 4)
        giou = generalized_iou(cxcywh_to_xyxy(matched_boxes), cxcywh_to_xyxy(target_boxes))
        per_layer = torch.zeros(len(logits), device=logits.device)
        by_layer = {
            "loss_ce": cross_entropy.sum((1, 2)) / n.class_weight,
            "loss_bbox": per_layer.index_add(0, layer, (matched_boxes - target_boxes).abs().sum(-1)) / n.num_boxes,
            "loss_giou": per_layer.index_add(0, layer, 1 - giou) / n.num_boxes,
            "cardinality_error": _cardinality_error(logits, targets) / n.num_images,
        }
        last = layer == len(logits) - 1
        wrong = (logits[-1, image[last], query[last]].argmax(-1) != labels[last]).sum()
        losses = {key: values[-1] for key, values in by_layer.items()}
        losses["class_error"] = 100 * wrong / torch.tensor(n.num_matched, device=logits.device)
        for i in range(len(logits) - 1):
            losses |= {f"{key}_{i}": values[i] for key, values in by_layer.items()}
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        weights = {
            "loss_ce": self.config.weight_ce,
            "loss_bbox": self.config.weight_bbox,
            "loss_giou": self.config.weight_giou,
        }
        parts = [(losses[key], key.rstrip("0123456789").rstrip("_")) for key in losses if key.startswith("loss_")]
        return torch.stack([value * weights[name] for value, name in parts]).sum()


def _flat_indices(
    matches: list[list[Match]], targets: list[dict[str, Tensor]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(layer, image, query, target) of every match, target counting through the objects of all images."""
    starts = torch.tensor([0, *[len(t["labels"]) for t in targets]]).cumsum(0)
    rows = [
        torch.stack([torch.full_like(query, i), torch.full_like(query, b), query, target + starts[b]])
        for i, layer in enumerate(matches)
        for b, (query, target) in enumerate(layer)
    ]
    return tuple(torch.cat(rows, dim=1).to(device))


def _cardinality_error(logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Per layer the sum over images of |queries that predict an object - objects|; for the log only."""
    predicted = (logits.detach().argmax(-1) != logits.shape[-1] - 1).sum(-1)  # (L, B)
    actual = torch.tensor([len(t["labels"]) for t in targets], device=logits.device)
    return (predicted - actual).abs().sum(-1).float()
