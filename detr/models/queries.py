"""Object queries: what the decoder starts from."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from detr.models.memory import Memory


class Queries(NamedTuple):
    """Tokens that attend, with their position apart."""

    tokens: Tensor  # (B, Q, d) content
    position: Tensor  # (B, Q, d), added to the content where attention compares
    # (B, Q, 2 or 4) centre, or centre and size, in 0..1 of the unpadded image: where sampled attention looks, and
    # where boxes are sought from. None: nowhere in particular, or in the encoder the cells of the memory itself
    references: Tensor | None = None


class LearnedQueries(nn.Module):
    """A learned position for each query, whose content starts at zero (facebookresearch/detr)."""

    def __init__(self, num_queries: int, hidden_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_queries, hidden_dim))  # as nn.Embedding starts

    def forward(self, memory: Memory) -> Queries:
        """Return the queries of each image of the memory."""
        position = self.weight.expand(len(memory.tokens), -1, -1)  # (B, Q, d)
        return Queries(torch.zeros_like(position), position)
