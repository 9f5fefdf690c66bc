"""Model outputs to detections (facebookresearch/detr, models/detr.py: PostProcess)."""

import torch
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy


@torch.no_grad()
def postprocess(outputs: dict, sizes: Tensor | list[tuple[int, int]]) -> list[dict[str, Tensor]]:
    """Every query's best class that is not no-object; no threshold, no suppression.

    outputs:  pred_logits (B, Q, C + 1), pred_boxes (B, Q, 4)
    sizes:    (height, width) of each original image in pixels, (B, 2)
    returns   per image scores (Q,), labels (Q,), boxes (Q, 4) xyxy in pixels
    """
    scores, labels = outputs["pred_logits"].softmax(-1)[..., :-1].max(-1)  # (B, Q)
    boxes = cxcywh_to_xyxy(outputs["pred_boxes"])
    height, width = torch.as_tensor(sizes, device=boxes.device, dtype=boxes.dtype).unbind(1)
    boxes = boxes * torch.stack([width, height, width, height], dim=1)[:, None]
    return [{"scores": s, "labels": c, "boxes": b} for s, c, b in zip(scores, labels, boxes, strict=True)]
