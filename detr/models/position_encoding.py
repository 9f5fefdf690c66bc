"""Position embeddings of the feature map (facebookresearch/detr, models/position_encoding.py)."""

import math

import torch
from torch import Tensor, nn

from detr.errors import InputError


class SinePositionEmbedding(nn.Module):
    """Sines and cosines of the normalised cumulative coordinates, for y and x in half of the channels each."""

    temperature = 10_000
    scale = 2 * math.pi

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.num_channels = hidden_dim // 2

    def forward(self, padding_mask: Tensor) -> Tensor:
        """padding_mask (B, H, W), True on padding -> (B, H, W, d)."""
        valid = (~padding_mask).float()
        y, x = valid.cumsum(1), valid.cumsum(2)  # counting starts at 1, padding repeats the last count
        y = y / (y[:, -1:, :] + 1e-6) * self.scale
        x = x / (x[:, :, -1:] + 1e-6) * self.scale
        channel = torch.arange(self.num_channels, dtype=torch.float32, device=padding_mask.device)
        period = self.temperature ** (2 * (channel // 2) / self.num_channels)
        angles = torch.stack([y, x], dim=-1)[..., None] / period  # (B, H, W, 2, d/2)
        waves = torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1)  # (B, H, W, 2, d/4, 2)
        return waves.flatten(3)


class LearnedPositionEmbedding(nn.Module):
    """One learned vector per row and one per column, x first as in the official checkpoints."""

    max_cells = 50

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(self.max_cells, hidden_dim // 2)
        self.col_embed = nn.Embedding(self.max_cells, hidden_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """padding_mask (B, H, W) -> (B, H, W, d); InputError beyond `max_cells` rows or columns."""
        batch, height, width = padding_mask.shape
        if max(height, width) > self.max_cells:
            raise InputError(
                f"a feature map of {height}x{width} exceeds the {self.max_cells} learned positions per axis: "
                "use smaller images, a larger stride or model.position_embedding=sine"
            )
        columns = self.col_embed.weight[:width].expand(batch, height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(batch, -1, width, -1)
        return torch.cat([columns, rows], dim=-1)
