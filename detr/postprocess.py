"""Model outputs to detections (facebookresearch/detr, models/detr.py: PostProcess)."""

from typing import Any

import torch
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy
from detr.classification import Classification, Softmax


@torch.no_grad()
def postprocess(
    outputs: dict[str, Any], sizes: Tensor | list[tuple[int, int]], classification: Classification | None = None
) -> list[dict[str, Tensor]]:
    """Read the detections off the outputs; no threshold, no suppression.

    outputs:         pred_logits (B, Q, K), pred_boxes (B, Q, 4)
    sizes:           (height, width) of each original image in pixels, (B, 2)
    classification:  convention of the logits; by default Softmax, which gives N = Q detections in order of the queries
    returns          per image scores (N,), labels (N,), boxes (N, 4) xyxy in pixels, and query (N,), the index of the
                     query that each comes from
    """
    found = (classification or Softmax()).detections(outputs["pred_logits"])
    boxes = cxcywh_to_xyxy(outputs["pred_boxes"])
    height, width = torch.as_tensor(sizes, device=boxes.device, dtype=boxes.dtype).unbind(1)
    boxes = boxes * torch.stack([width, height, width, height], dim=1)[:, None]
    boxes = boxes.gather(1, found.query[..., None].expand(-1, -1, 4))  # (B, N, 4)
    return [
        {"scores": scores, "labels": labels, "boxes": own, "query": query}
        for scores, labels, query, own in zip(*found, boxes, strict=True)
    ]
