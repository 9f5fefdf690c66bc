"""Heads that turn decoded queries into class logits and boxes (facebookresearch/detr, models/detr.py)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from detr.boxes import inverse_sigmoid
from detr.classification import Classification


class ClassHead(nn.Linear):
    """Linear map to the logits of the classification's convention."""

    def __init__(self, hidden_dim: int, num_classes: int, classification: Classification) -> None:
        super().__init__(hidden_dim, classification.num_logits(num_classes))
        if classification.initial_bias is not None:
            nn.init.constant_(self.bias, classification.initial_bias)


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, num_layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (num_layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x)


class BoxHead(MLP):
    """Three layers and a sigmoid."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__(hidden_dim, hidden_dim, 4, num_layers=3)

    def forward(self, x: Tensor, references: Tensor | None = None) -> Tensor:
        """Boxes (..., 4) cxcywh in 0..1 of the unpadded image.

        x:           (..., d)
        references:  (..., 2 or 4) of the queries; the box is sought relative to this centre, or centre and size
        """
        offsets = super().forward(x)
        if references is None:
            return offsets.sigmoid()
        known = references.shape[-1]
        located = offsets[..., :known] + inverse_sigmoid(references)
        return torch.cat([located, offsets[..., known:]], dim=-1).sigmoid()
