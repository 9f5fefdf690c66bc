"""Box formats, the inverse of the sigmoid, and the generalised IoU, for any leading shape."""

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


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x in 0..1, kept finite by bounding x and 1 - x from below by `eps`."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., 2019) in [-1, 1] of xyxy boxes (..., 4); leading shapes broadcast.

    torchvision's pairwise function takes two flat lists; this one serves pairs and whole cost matrices of all decoder
    layers alike. Two boxes without area give 0 / 0 there; here their IoU is 0.
    """
    a, b = (boxes if boxes.is_floating_point() else boxes.float() for boxes in (a, b))
    # Coordinates first in memory: inner loops over boxes are faster than over the two numbers of a corner.
    a, b = (x.movedim(-1, 0).contiguous().movedim(0, -1) for x in (a, b))
    low_a, high_a, low_b, high_b = a[..., :2], a[..., 2:], b[..., :2], b[..., 2:]
    overlap = _area((torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0))
    hull = _area((torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp(min=0))
    union = _area(high_a - low_a) + _area(high_b - low_b) - overlap
    tiny = torch.finfo(union.dtype).tiny
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _area(sides: Tensor) -> Tensor:
    """(..., 2) -> (...). Tensor.prod would look for zeros in its backward pass, and make the host wait for them."""
    return sides[..., 0] * sides[..., 1]
