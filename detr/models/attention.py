"""Attention modules, all called as `module(queries, memory)`, so that one can replace another in the transformer."""

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
        attended, _ = super().forward(
            queries.tokens + queries.position,
            memory.tokens + memory.position,
            memory.tokens,
            key_padding_mask=memory.padding_mask,
            need_weights=False,  # F.scaled_dot_product_attention then takes the fastest kernel that there is
        )
        return attended

    def weights(self, queries: Queries, memory: Memory) -> Tensor:
        """Attention weights (B, heads, Q, T), each row summing to 1 over the tokens that are not padding."""
        _, weights = super().forward(
            queries.tokens + queries.position,
            memory.tokens + memory.position,
            memory.tokens,
            key_padding_mask=memory.padding_mask,
            average_attn_weights=False,
        )
        assert weights is not None
        return weights
