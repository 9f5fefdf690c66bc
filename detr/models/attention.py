"""Attention modules, all called with one signature, so that one can replace another in the transformer."""

from torch import Tensor, nn


class MultiHeadAttention(nn.MultiheadAttention):
    """Dense scaled dot-product attention, with the parameter names of the official checkpoints."""

    def __init__(self, hidden_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(hidden_dim, num_heads, dropout, batch_first=True)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding_mask: Tensor | None = None,
        level_shapes: list[tuple[int, int]] | None = None,
        reference_points: Tensor | None = None,
    ) -> Tensor:
        """Attend from every query to every key.

        query:             (B, Q, d) with its position already added
        key, value:        (B, T, d), the key with its position added; T tokens of all feature levels in a row
        padding_mask:      (B, T), True where the token is padding
        level_shapes:      (H, W) of each feature level; sparse modules need them, this one does not
        reference_points:  (B, Q, levels, 2) in 0..1 around which sparse modules sample; unused here
        returns            (B, Q, d)
        """
        output, _ = super().forward(query, key, value, key_padding_mask=padding_mask, need_weights=False)
        return output

    def weights(self, query: Tensor, key: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Attention weights (B, heads, Q, T), each row summing to 1 over the tokens that are not padding."""
        _, weights = super().forward(
            query, key, key, key_padding_mask=padding_mask, need_weights=True, average_attn_weights=False
        )
        return weights


ATTENTION = {"dense": MultiHeadAttention}
