"""The set loss (facebookresearch/detr, models/detr.py: SetCriterion), for all decoder layers at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.classification import build_classification
from detr.config import LossConfig
from detr.matcher import HungarianMatcher, stack_layers


@dataclass(frozen=True)
class Normalizers:
    """Denominators of the losses of an effective batch. All follow from its targets alone.

    Losses of the parts of a batch that share the normalisers of the whole batch add up to the whole batch's losses;
    so accumulated micro-batches and the ranks of a distributed run equal one large batch exactly.
    """

    num_objects: tuple[int, ...]  # of every image of the effective batch

    @property
    def num_boxes(self) -> float:
        """Divisor of the box losses: the number of objects, at least 1."""
        return max(float(sum(self.num_objects)), 1.0)

    @property
    def num_images(self) -> float:
        """Divisor of the cardinality error."""
        return float(len(self.num_objects))

    def num_matched(self, num_queries: int) -> float:
        """Divisor of the class error: the objects that get a query."""
        return float(sum(min(n, num_queries) for n in self.num_objects))


class SetCriterion(nn.Module):
    """Classification loss over all queries, L1 and GIoU over the matched ones."""

    def __init__(self, num_classes: int, config: LossConfig | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.config = config or LossConfig()
        self.classification = build_classification(self.config)
        self.matcher = HungarianMatcher.from_config(self.config)

    def normalizers(self, targets: list[dict[str, Tensor]]) -> Normalizers:
        """Compute the denominators of a batch (one entry of `targets` an image), however it is split afterwards."""
        return Normalizers(tuple(len(t["labels"]) for t in targets))

    def forward(
        self, outputs: dict[str, Any], targets: list[dict[str, Tensor]], normalizers: Normalizers | None = None
    ) -> dict[str, Tensor]:
        """Compute all losses, unweighted.

        outputs:      as DETR.forward returns them
        targets:      per image labels (n,) and boxes (n, 4) cxcywh in 0..1
        normalizers:  of the whole effective batch; by default of this batch alone
        returns       loss_ce, loss_bbox, loss_giou, cardinality_error of the last layer, and of the layers before it
                      with "_0".."_{L-2}"; class_error in percent of the matched objects, NaN when there are none
        """
        logits, boxes = stack_layers(outputs if self.config.aux_loss else {**outputs, "aux_outputs": []})
        n = normalizers or self.normalizers(targets)
        query, target = self._matches(logits, boxes, targets)  # both (L * M)
        labels = torch.cat([t["labels"].long() for t in targets])[target]
        target_boxes = torch.cat([t["boxes"].float() for t in targets])[target]  # (L * M, 4)
        cardinality_error = self._cardinality_error(logits, targets)

        num_layers, _, num_queries, _ = logits.shape
        logits, boxes = logits.flatten(0, 2).float(), boxes.flatten(0, 2).float()  # (L * B * Q, K), (L * B * Q, 4)
        classes = torch.full(logits.shape[:1], self.num_classes, device=logits.device).index_copy_(0, query, labels)
        class_loss = self.classification.loss(logits, classes)  # (L * B * Q)
        class_divisor = self.classification.denominator(n.num_objects, num_queries)
        matched_boxes = boxes[query]
        giou = generalized_iou(cxcywh_to_xyxy(matched_boxes), cxcywh_to_xyxy(target_boxes))
        # Every layer has the same number of queries, and of matches.
        by_layer = {
            "loss_ce": class_loss.view(num_layers, -1).sum(1) / class_divisor,
            "loss_bbox": (matched_boxes - target_boxes).abs().view(num_layers, -1).sum(1) / n.num_boxes,
            "loss_giou": (1 - giou).view(num_layers, -1).sum(1) / n.num_boxes,
            "cardinality_error": cardinality_error / n.num_images,
        }
        last = slice(len(query) - len(query) // num_layers, None)
        wrong = (logits[query[last]].argmax(-1) != labels[last]).sum()
        losses = {"class_error": 100 * wrong / n.num_matched(num_queries)}  # 0 / 0 without objects
        for key, values in by_layer.items():
            *before, losses[key] = values.unbind()
            losses |= {f"{key}_{i}": value for i, value in enumerate(before)}
        return losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Sum the losses "loss_<name>..." with the weight of their name, whatever suffix follows it."""
        weights = {"ce": self.config.weight_ce, "bbox": self.config.weight_bbox, "giou": self.config.weight_giou}
        return torch.stack(
            [value * weights[key.split("_")[1]] for key, value in losses.items() if key.startswith("loss_")]
        ).sum()

    def _matches(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Row of every match among the (L * B * Q) queries, and among the objects of all images: (2, L * M).

        Computed on the host, where the matches are, and copied to the device without waiting for it.
        """
        pairs = self.matcher.assign(logits, boxes, targets)  # (L, 2, M), numbered within their image
        num_layers, batch, num_queries = logits.shape[:3]
        sizes = np.array([len(t["labels"]) for t in targets])
        image = np.arange(batch).repeat(sizes.clip(max=num_queries))  # (M)
        queries = (np.arange(num_layers)[:, None] * batch + image) * num_queries + pairs[:, 0]  # (L, M)
        objects = (sizes.cumsum() - sizes)[image] + pairs[:, 1]
        table = torch.from_numpy(np.stack([queries.ravel(), objects.ravel()]))
        return table.to(logits.device, non_blocking=True)

    def _cardinality_error(self, logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Sum |queries that predict an object - objects| over the images, for each layer; for the log only."""
        predicted = self.classification.num_predicted(logits.detach())  # (L, B)
        actual = torch.tensor([len(t["labels"]) for t in targets]).to(logits.device, non_blocking=True)
        return (predicted - actual).abs().sum(-1).float()
