"""The detector (facebookresearch/detr, models/detr.py). Module names are those of the official checkpoints."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr.models.backbone import Backbone
from detr.models.transformer import Transformer


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, num_layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (num_layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class DETR(nn.Module):
    """Backbone, transformer, and a class and a box head shared by all decoder layers."""

    def __init__(
        self, backbone: Backbone, position: nn.Module, transformer: Transformer, num_classes: int, num_queries: int
    ) -> None:
        super().__init__()
        hidden_dim = transformer.decoder.norm.normalized_shape[0]
        self.num_classes = num_classes
        self.transformer = transformer
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(hidden_dim, hidden_dim, 4, num_layers=3)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels, hidden_dim, kernel_size=1)
        self.backbone = nn.Sequential(backbone, position)  # the official names backbone.0 and backbone.1

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor | list[dict[str, Tensor]]]:
        """Detect objects.

        images:        (B, 3, H, W), normalised, zero on padding
        padding_mask:  (B, H, W), True on padding
        returns        pred_logits (B, Q, C + 1), class C is no-object; pred_boxes (B, Q, 4), cxcywh in 0..1 of the
                       unpadded image; aux_outputs, the same two of every decoder layer before the last
        """
        backbone, position = self.backbone
        features = backbone(images)  # (B, channels, h, w)
        mask = feature_mask(padding_mask, features.shape[-2:])
        decoded = self.transformer(self.input_proj(features), mask, position(mask), self.query_embed.weight)
        # The heads compute in float32 under autocast too: bf16 has 8 bits for a coordinate of 1,000 pixels.
        with torch.autocast(decoded.device.type, enabled=False):
            decoded = decoded.float()
            logits = self.class_embed(decoded)  # (L, B, Q, C + 1)
            boxes = self.bbox_embed(decoded).sigmoid()  # (L, B, Q, 4)
        outputs = [{"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
        return {**outputs[-1], "aux_outputs": outputs[:-1]}


def feature_mask(padding_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-interpolate the mask (B, H, W) to the feature map's `size`.

    The first token stays valid whatever the padding: attention over no token at all would be 0 / 0
    (facebookresearch/detr issue 101).
    """
    mask = F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()
    mask[:, 0, 0] = False
    return mask
