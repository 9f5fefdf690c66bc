"""Box formats and the generalised IoU, for boxes of any leading shape."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., 2019) in [-1, 1] of xyxy boxes (..., 4); leading shapes broadcast.

    torchvision's pairwise function takes two flat lists; this one serves pairs and whole cost matrices of all decoder
    layers alike. Two boxes without area give 0 / 0 there; here their IoU is 0.
    """
    a, b = (boxes if boxes.is_floating_point() else boxes.float() for boxes in (a, b))
    area_a, area_b = (b_[..., 2:] - b_[..., :2] for b_ in (a, b))
    area_a, area_b = area_a.prod(-1), area_b.prod(-1)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area_a + area_b - overlap
    tiny = torch.finfo(union.dtype).tiny
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)
