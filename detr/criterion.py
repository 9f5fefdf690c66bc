"""The set loss (facebookresearch/detr, models/detr.py: SetCriterion), for all decoder layers at once."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.config import LossConfig
from detr.matcher import HungarianMatcher, stack_layers


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
        n = normalizers or self.normalizers(targets, logits.shape[2])
        query, target = self._matches(logits, boxes, targets)  # both (L * M)
        labels = torch.cat([t["labels"].long() for t in targets])[target]
        target_boxes = torch.cat([t["boxes"].float() for t in targets])[target]  # (L * M, 4)
        cardinality_error = _cardinality_error(logits, targets)

        num_layers = len(logits)
        logits, boxes = logits.flatten(0, 2).float(), boxes.flatten(0, 2).float()  # (L * B * Q, C + 1), (L * B * Q, 4)
        classes = torch.full(logits.shape[:1], self.num_classes, device=logits.device).index_copy_(0, query, labels)
        cross_entropy = F.cross_entropy(logits, classes, self.class_weight.to(logits.device), reduction="none")
        matched_boxes = boxes[query]
        giou = generalized_iou(cxcywh_to_xyxy(matched_boxes), cxcywh_to_xyxy(target_boxes))
        # Every layer has the same number of queries, and of matches.
        by_layer = {
            "loss_ce": cross_entropy.view(num_layers, -1).sum(1) / n.class_weight,
            "loss_bbox": (matched_boxes - target_boxes).abs().view(num_layers, -1).sum(1) / n.num_boxes,
            "loss_giou": (1 - giou).view(num_layers, -1).sum(1) / n.num_boxes,
            "cardinality_error": cardinality_error / n.num_images,
        }
        last = slice(len(query) - len(query) // num_layers, None)
        wrong = (logits[query[last]].argmax(-1) != labels[last]).sum()
        losses = {"class_error": 100 * wrong / n.num_matched}  # 0 / 0 without objects
        for key, values in by_layer.items():
            *before, losses[key] = values.unbind()
            losses |= {f"{key}_{i}": value for i, value in enumerate(before)}
        return losses

    def _matches(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """(2, L * M): of every match the row among the (L * B * Q) queries, and among the objects of all images.

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

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        weights = {
            "loss_ce": self.config.weight_ce,
            "loss_bbox": self.config.weight_bbox,
            "loss_giou": self.config.weight_giou,
        }
        parts = [(losses[key], key.rstrip("0123456789").rstrip("_")) for key in losses if key.startswith("loss_")]
        return torch.stack([value * weights[name] for value, name in parts]).sum()


def _cardinality_error(logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Per layer the sum over images of |queries that predict an object - objects|; for the log only."""
    logits = logits.detach()
    predicted = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
    actual = torch.tensor([len(t["labels"]) for t in targets]).to(logits.device, non_blocking=True)
    return (predicted - actual).abs().sum(-1).float()
