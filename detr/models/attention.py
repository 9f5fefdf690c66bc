"""Attention modules, all called with one signature, so that one can replace another in the transformer."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import Function, FunctionCtx

from detr.models.dropout import draw_kept, dropout_scale


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
        q, k, v = (
            x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, d / heads)
            for x in self._project(query, key, value)
        )
        p = self.dropout if self.training else 0.0
        if p and q.device.type == "cpu":  # where no fused kernel has dropout
            attended = AttentionWithDropout.apply(q, k, v, padding_mask, p)
        else:
            valid = None if padding_mask is None else ~padding_mask[:, None, None]  # (B, 1, 1, T)
            attended = F.scaled_dot_product_attention(q, k, v, valid, dropout_p=p)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values (B, tokens, d); of one product where queries and keys are the same tokens."""
        d = self.embed_dim
        if query is key:
            weights, biases = self.in_proj_weight.split([2 * d, d]), self.in_proj_bias.split([2 * d, d])
            both = F.linear(query, weights[0], biases[0])
            return [*both.split(d, dim=-1), F.linear(value, weights[1], biases[1])]
        parts = zip((query, key, value), self.in_proj_weight.split(d), self.in_proj_bias.split(d), strict=True)
        return [F.linear(*part) for part in parts]

    def weights(self, query: Tensor, key: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Attention weights (B, heads, Q, T), each row summing to 1 over the tokens that are not padding."""
        _, weights = super().forward(
            query, key, key, key_padding_mask=padding_mask, need_weights=True, average_attn_weights=False
        )
        return weights


class AttentionWithDropout(Function):
    """Attention whose weights are dropped out, on a CPU. The weights, most of a transformer's memory, are not kept for
    the backward pass, which computes them again.
    """

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None, p: float) -> Tensor:
        """q (B, heads, Q, c), k and v (B, heads, T, c), padding_mask (B, T) -> (B, heads, Q, c)."""
        kept = draw_kept(torch.Size([*q.shape[:-1], k.shape[-2]]), p)
        ctx.save_for_backward(q, k, v, padding_mask, kept)
        ctx.p = p
        return _weights(q, k, padding_mask).mul_(kept) @ (v * dropout_scale(p))

    @staticmethod
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, heads, Q, c) -> the gradients of q, k and v."""
        q, k, v, padding_mask, kept = ctx.saved_tensors
        grad = grad * dropout_scale(ctx.p)  # factors go to the small matrices
        weights = _weights(q, k, padding_mask)
        of_v = (weights * kept).transpose(-2, -1) @ grad
        of_weights = (grad @ v.transpose(-2, -1)).mul_(kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        root = math.sqrt(q.shape[-1])
        return of_scores @ (k / root), of_scores.transpose(-2, -1) @ (q / root), of_v, None, None


def _weights(q: Tensor, k: Tensor, padding_mask: Tensor | None) -> Tensor:
    """(B, heads, Q, T), each row summing to 1 over the tokens that are not padding."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if padding_mask is not None:
        scores.masked_fill_(padding_mask[:, None, None], float("-inf"))
    return scores.softmax(-1)


ATTENTION = {"dense": MultiHeadAttention}
