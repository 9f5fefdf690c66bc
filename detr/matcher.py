"""One-to-one matching of predictions and objects (facebookresearch/detr, models/matcher.py)."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from detr.boxes import cxcywh_to_xyxy, generalized_iou
from detr.classification import Classification, Softmax, build_classification
from detr.config import LossConfig

Match = tuple[Tensor, Tensor]  # (query_index, target_index), both (min(n, Q),) int64 on the CPU


def stack_layers(outputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Stack all decoder layers, the last one last: logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
    layers = [*outputs.get("aux_outputs", []), outputs]
    return torch.stack([x["pred_logits"] for x in layers]), torch.stack([x["pred_boxes"] for x in layers])


class HungarianMatcher(nn.Module):
    """Assign to every object the query that explains it at the least total cost.

    cost = cost_class * classification cost of the object's class + cost_bbox * L1 of cxcywh - cost_giou * GIoU
    """

    def __init__(
        self,
        cost_class: float = 1.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        classification: Classification | None = None,
    ) -> None:
        """`classification`: convention of the logits; by default Softmax."""
        super().__init__()
        self.cost_class, self.cost_bbox, self.cost_giou = cost_class, cost_bbox, cost_giou
        self.classification = classification or Softmax()

    @classmethod
    def from_config(cls, config: LossConfig) -> "HungarianMatcher":
        """Build the matcher of a run's configuration."""
        return cls(config.cost_class, config.cost_bbox, config.cost_giou, build_classification(config))

    def forward(self, outputs: dict[str, Any], targets: list[dict[str, Tensor]]) -> list[Match]:
        """Match the outputs' last layer.

        outputs:  pred_logits (B, Q, K), pred_boxes (B, Q, 4) cxcywh
        targets:  per image labels (n,) and boxes (n, 4) cxcywh in 0..1
        returns   per image (query_index, target_index), sorted by query; min(n, Q) pairs
        """
        return self.match_layers(outputs["pred_logits"][None], outputs["pred_boxes"][None], targets)[0]

    def match_layers(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> list[list[Match]]:
        """Match every decoder layer by itself: logits (L, B, Q, K), boxes (L, B, Q, 4) -> L lists of B matches."""
        counts = [min(len(t["labels"]), logits.shape[2]) for t in targets]
        pairs = torch.from_numpy(self.assign(logits, boxes, targets))
        return [[tuple(match) for match in layer.split(counts, dim=1)] for layer in pairs]

    @torch.no_grad()
    def assign(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]]) -> npt.NDArray[np.int64]:
        """Put the matches of `match_layers` in one table (L, 2, M).

        It has query_index and target_index of a layer's M matches, image by image, min(n, Q) of each.
        """
        sizes = [len(t["labels"]) for t in targets]
        # One matrix for all layers, padded to the image with most objects: one copy to the host a step.
        labels = pad_sequence([t["labels"].long() for t in targets], batch_first=True)  # (B, n)
        target_boxes = pad_sequence([t["boxes"].float() for t in targets], batch_first=True)  # (B, n, 4)
        cost = self.cost(logits.float(), boxes.float(), labels, target_boxes).cpu()
        # A non-finite cost has no best assignment. It gets any, and the loss it leads to stops the run by name.
        layers = cost.nan_to_num(nan=0.0).numpy()
        return np.stack([np.hstack([_assign(layer[i, :n]) for i, n in enumerate(sizes)]) for layer in layers])

    def cost(self, logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor) -> Tensor:
        """Compute the costs (L, B, n, Q) from logits (L, B, Q, K), boxes (L, B, Q, 4), (B, n) and (B, n, 4)."""
        index = labels[None, :, None].expand(*logits.shape[:3], -1)  # (L, B, Q, n)
        of_class = self.classification.cost(logits).gather(-1, index).transpose(-2, -1)
        boxes, target_boxes = boxes[:, :, None], target_boxes[:, :, None]  # (L, B, 1, Q, 4), (B, n, 1, 4)
        giou = generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
        distance = torch.cdist(target_boxes[:, :, 0], boxes[:, :, 0], p=1)
        return self.cost_bbox * distance + self.cost_class * of_class - self.cost_giou * giou


def _assign(cost: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Solve one image, (n, Q) -> query_index and target_index (2, min(n, Q)), sorted by query."""
    objects, queries = linear_sum_assignment(cost)
    order = queries.argsort()
    return np.stack([queries[order], objects[order]])
