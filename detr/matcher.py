"""One-to-one matching of predictions and objects (facebookresearch/detr, models/matcher.py)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.config import LossConfig

Match = tuple[Tensor, Tensor]  # (query_index, target_index), both (min(n, Q),) int64 on the CPU


def stack_layers(outputs: dict) -> tuple[Tensor, Tensor]:
    """All decoder layers, the last one last: logits (L, B, Q, C + 1) and boxes (L, B, Q, 4)."""
    layers = [*outputs.get("aux_outputs", []), outputs]
    return torch.stack([x["pred_logits"] for x in layers]), torch.stack([x["pred_boxes"] for x in layers])


class HungarianMatcher(nn.Module):
    """Assign to every object the query that explains it at the least total cost.

    cost = -cost_class * probability of the object's class + cost_bbox * L1 of cxcywh - cost_giou * GIoU
    """

    def __init__(self, cost_class: float = 1.0, cost_bbox: float = 5.0, cost_giou: float = 2.0) -> None:
        super().__init__()
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou

    @classmethod
    def from_config(cls, config: LossConfig) -> "HungarianMatcher":
        """With the costs of the run's configuration."""
        return cls(config.cost_class, config.cost_bbox, config.cost_giou)

    def forward(self, outputs: dict, targets: list[dict[str, Tensor]]) -> list[Match]:
        """Match the outputs' last layer.

        outputs:  pred_logits (B, Q, C + 1), pred_boxes (B, Q, 4) cxcywh
        targets:  per image labels (n,) and boxes (n, 4) cxcywh in 0..1
        returns   per image (query_index, target_index), sorted by query; min(n, Q) pairs
        """
        return self.match_layers(outputs["pred_logits"][None], outputs["pred_boxes"][None], targets)[0]

    @torch.no_grad()
    def match_layers(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> list[list[Match]]:
        """Match every decoder layer by itself: logits (L, B, Q, C + 1), boxes (L, B, Q, 4) -> L lists of B matches."""
        sizes = [len(t["labels"]) for t in targets]
        # One matrix for all layers, padded to the image with most objects: one copy to the host a step.
        labels = logits.new_zeros(len(targets), max(sizes, default=0), dtype=torch.int64)
        target_boxes = boxes.new_zeros(*labels.shape, 4, dtype=torch.float32)
        for i, target in enumerate(targets):
            labels[i, : sizes[i]] = target["labels"]
            target_boxes[i, : sizes[i]] = target["boxes"]
        cost = self.cost(logits.float(), boxes.float(), labels, target_boxes).cpu()
        # A non-finite cost has no best assignment. It gets any, and the loss it leads to stops the run by name.
        cost = cost.nan_to_num(nan=0.0).numpy()
        return [[_assign(layer[i, :, :n]) for i, n in enumerate(sizes)] for layer in cost]

    def cost(self, logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor) -> Tensor:
        """(L, B, Q, C + 1), (L, B, Q, 4), (B, n), (B, n, 4) -> matching costs (L, B, Q, n)."""
        probability = logits.softmax(-1)
        index = labels[None, :, None].expand(*probability.shape[:3], -1)  # (L, B, Q, n)
        boxes, target_boxes = boxes[..., None, :], target_boxes[None, :, None]  # (L, B, Q, 1, 4), (1, B, 1, n, 4)
        giou = generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
        distance = (boxes - target_boxes).abs().sum(-1)
        return self.cost_bbox * distance - self.cost_class * probability.gather(-1, index) - self.cost_giou * giou


def _assign(cost) -> Match:
    queries, objects = linear_sum_assignment(cost)
    return torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(objects, dtype=torch.int64)
