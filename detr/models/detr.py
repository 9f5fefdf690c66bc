"""The detector (facebookresearch/detr, models/detr.py). Module names are those of the official checkpoints."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr.classification import Classification
from detr.config import ModelConfig
from detr.models.backbone import Backbone
from detr.models.heads import BoxHead, ClassHead
from detr.models.memory import build_memory
from detr.models.queries import LearnedQueries
from detr.models.transformer import Transformer


class DETR(nn.Module):
    """Backbone, transformer, and a class and a box head shared by all decoder layers."""

    def __init__(
        self,
        backbone: Backbone,
        position: nn.Module,
        config: ModelConfig,
        num_classes: int,
        classification: Classification,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification = classification
        self.transformer = Transformer(config)
        self.class_embed = ClassHead(config.hidden_dim, num_classes, classification)
        self.bbox_embed = BoxHead(config.hidden_dim)
        self.query_embed = LearnedQueries(config.num_queries, config.hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels[-1], config.hidden_dim, kernel_size=1)
        self.backbone = nn.Sequential(backbone, position)  # the official names backbone.0 and backbone.1

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Any]:
        """Detect objects.

        images:        (B, 3, H, W), normalised, zero on padding
        padding_mask:  (B, H, W), True on padding
        returns        pred_logits (B, Q, K) by the convention of `classification`; pred_boxes (B, Q, 4), cxcywh in 0..1
                       of the unpadded image; aux_outputs, the same two of every decoder layer before the last
        """
        backbone, position = self.backbone
        levels = [self.input_proj(features) for features in backbone(images)]  # (B, d, h, w)
        masks = [feature_mask(padding_mask, level.shape[-2:]) for level in levels]
        memory = build_memory(levels, masks, [position(mask) for mask in masks])
        decoded = self.transformer(memory, self.query_embed)
        # The heads compute in float32 under autocast too: bf16 has 8 bits for a coordinate of 1,000 pixels.
        with torch.autocast(images.device.type, enabled=False):
            tokens = decoded.tokens.float()
            logits = self.class_embed(tokens)  # (L, B, Q, K)
            boxes = self.bbox_embed(tokens, decoded.references)  # (L, B, Q, 4)
        *before, last = ({"pred_logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True))
        return {**last, "aux_outputs": before}


def feature_mask(padding_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-interpolate the mask (B, H, W) to the feature map's `size`.

    The first token stays valid whatever the padding: attention over no token at all would be 0 / 0
    (facebookresearch/detr issue 101).
    """
    mask = F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()
    mask[:, 0, 0] = False
    return mask
