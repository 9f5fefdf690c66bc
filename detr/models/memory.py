"""Image tokens that encoder and decoder attend to."""

from typing import NamedTuple

import torch
from torch import Tensor


class Memory(NamedTuple):
    """Tokens of all feature levels in a row."""

    tokens: Tensor  # (B, T, d)
    position: Tensor  # (B, T, d), added to the tokens where attention compares
    padding_mask: Tensor | None = None  # (B, T), True on padding; None: no padding
    level_shapes: tuple[tuple[int, int], ...] = ()  # (H, W) of each level; their areas sum to T

    @property
    def valid_ratios(self) -> Tensor:
        """Shares of each level's height and width that are not padding, (B, levels, 2) as (x, y)."""
        ratios = []
        for mask in self._masks():  # (B, H, W)
            valid = (~mask).float()
            ratios.append(torch.stack([valid[:, 0].mean(1), valid[:, :, 0].mean(1)], dim=-1))
        return torch.stack(ratios, dim=1)

    @property
    def cell_centres(self) -> Tensor:
        """Centre of each token's cell in 0..1 of the unpadded image, beyond 1 on padding, (B, T, 2) as (x, y)."""
        centres = []
        for (height, width), ratio in zip(self.level_shapes, self.valid_ratios.unbind(1), strict=True):
            y, x = (torch.arange(n, device=self.tokens.device) + 0.5 for n in (height, width))
            grid = torch.stack(torch.meshgrid(x / width, y / height, indexing="xy"), dim=-1)  # (H, W, 2)
            centres.append(grid.flatten(0, 1) / ratio[:, None])  # (B, H * W, 2)
        return torch.cat(centres, dim=1)

    def _masks(self) -> list[Tensor]:
        """Padding mask of each level, (B, H, W)."""
        mask = self.padding_mask if self.padding_mask is not None else torch.zeros_like(self.tokens[..., 0]).bool()
        sizes = [height * width for height, width in self.level_shapes]
        return [
            part.reshape(-1, *shape) for part, shape in zip(torch.split(mask, sizes, 1), self.level_shapes, strict=True)
        ]


def build_memory(features: list[Tensor], masks: list[Tensor], positions: list[Tensor]) -> Memory:
    """Lay the levels' cells in a row.

    features:   (B, d, H, W) of each level
    masks:      (B, H, W) of each level, True on padding
    positions:  (B, H, W, d) of each level
    """
    return Memory(
        tokens=torch.cat([level.flatten(2).transpose(1, 2) for level in features], dim=1),  # (B, T, d)
        position=torch.cat([level.flatten(1, 2) for level in positions], dim=1),
        padding_mask=torch.cat([mask.flatten(1) for mask in masks], dim=1),
        level_shapes=tuple((level.shape[-2], level.shape[-1]) for level in features),
    )
