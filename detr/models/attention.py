"""Attention modules, all called as `module(queries, memory)`, so that one can replace another in the transformer."""

import torch.nn.functional as F
from torch import Tensor, nn

from detr.models.memory import Memory
from detr.models.queries import Queries


class MultiHeadAttention(nn.MultiheadAttention):
    """Dense scaled dot-product attention, with the parameter names of the official checkpoints.

    Positions are added to queries and keys, never to values.
    """

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim, num_heads, dropout, batch_first=True)

    def forward(self, queries: Queries, memory: Memory) -> Tensor:  # type: ignore[override]
        """Attend from every query to every token of the memory that is not padding -> (B, Q, d)."""
        # nn.MultiheadAttention's own forward puts sequences first and copies: some 4 % of the built-in model's step.
        inputs = (*_located(queries, memory), memory.tokens)
        parts = zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        # (B, heads, tokens, d / heads)
        q, k, v = (F.linear(*part).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        valid = None if memory.padding_mask is None else ~memory.padding_mask[:, None, None]  # (B, 1, 1, T)
        p = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, valid, dropout_p=p)  # (B, heads, Q, d / heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def weights(self, queries: Queries, memory: Memory) -> Tensor:
        """Attention weights (B, heads, Q, T), each row summing to 1 over the tokens that are not padding."""
        located, keys = _located(queries, memory)
        _, weights = super().forward(
            located, keys, memory.tokens, key_padding_mask=memory.padding_mask, average_attn_weights=False
        )
        assert weights is not None
        return weights


def _located(queries: Queries, memory: Memory) -> tuple[Tensor, Tensor]:
    """Queries (B, Q, d) and keys (B, T, d) with their positions; in self-attention one tensor is both."""
    located = queries.tokens + queries.position
    is_self = memory.tokens is queries.tokens and memory.position is queries.position
    return located, located if is_self else memory.tokens + memory.position
