"""Own model: a detector without transformer, whose queries are the cells of a grid.

python experiments/run.py model.target=examples.grid_detector:GridDetector 'model.options={cells: 6}' optim.lr=1e-3
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr.config import ModelConfig


class GridDetector(nn.Module):
    """Convolutions, pooled to cells x cells, and one class and one box of each cell."""

    def __init__(self, config: ModelConfig, cells: int = 4, width: int = 32) -> None:
        super().__init__()
        assert config.num_classes is not None  # filled in from the data
        sizes = [3, width, width, width]
        stages = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.cells = cells
        self.backbone = nn.Sequential(*stages)  # the name by which optim.backbone_lr_ratio finds it
        self.class_head = nn.Conv2d(width, config.num_classes + 1, 1)  # the last one is no-object
        self.box_head = nn.Conv2d(width, 4, 1)

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict[str, Tensor | list]:
        """Detect objects; images (B, 3, H, W) are normalised, padding_mask (B, H, W) is True on padding."""
        features = F.adaptive_avg_pool2d(self.backbone(images), self.cells)  # (B, width, cells, cells)
        logits = self.class_head(features).flatten(2).transpose(1, 2)  # (B, cells * cells, C + 1)
        shift = self.box_head(features).flatten(2).transpose(1, 2)  # (B, cells * cells, 4)
        boxes = (shift + self.centres(shift).logit()).sigmoid()  # cxcywh in units of the padded image
        valid = (~padding_mask).float()
        height, width = valid[:, :, 0].mean(1), valid[:, 0].mean(1)  # (B), share of the image that is no padding
        boxes = boxes / torch.stack([width, height, width, height], dim=1)[:, None]
        return {"pred_logits": logits, "pred_boxes": boxes.clamp(0, 1), "aux_outputs": []}

    def centres(self, like: Tensor) -> Tensor:
        """Compute the cells' boxes (cells * cells, 4): their centres, and a quarter of the image as size."""
        steps = (torch.arange(self.cells, device=like.device) + 0.5) / self.cells
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        size = torch.full_like(x, 0.25)
        return torch.stack([x, y, size, size], dim=-1).flatten(0, 1)
