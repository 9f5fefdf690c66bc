"""Encoder and decoder (facebookresearch/detr, models/transformer.py), batch first.

Post-LN normalises after each residual sum; pre-LN normalises the input of each sublayer, adds the position after the
norm, and closes the encoder with a norm.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detr.config import ModelConfig
from detr.models.activations import CheckpointedStack
from detr.models.attention import MultiHeadAttention
from detr.models.memory import Memory
from detr.models.queries import Queries


class Decoded(NamedTuple):
    """Queries after each of the L decoder layers."""

    tokens: Tensor  # (L, B, Q, d)
    references: Tensor | None  # (L, B, Q, 2 or 4) that the layer looked around; None: the queries have none


class _Layer(nn.Module):
    """Norm placement and feed-forward sublayer of encoder and decoder layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.linear1 = nn.Linear(config.hidden_dim, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x + sublayer(norm(x)) in pre-LN, norm(x + sublayer(x)) in post-LN."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.linear2(self.dropout(self.linear1(x).relu()))


class EncoderLayer(_Layer):
    """Self-attention of the image's tokens, then the feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.self_attn = image_attention(config)
        self.norm1 = nn.LayerNorm(config.hidden_dim)
        self.norm2 = nn.LayerNorm(config.hidden_dim)

    def forward(self, memory: Memory) -> Memory:
        """Memory -> Memory with new tokens."""

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(Queries(x, memory.position), memory._replace(tokens=x))

        x = self.residual(memory.tokens, self.norm1, attend)
        return memory._replace(tokens=self.residual(x, self.norm2, self.feed_forward))


class DecoderLayer(_Layer):
    """Self-attention of the object queries, attention to the image, then the feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.self_attn = MultiHeadAttention(config.hidden_dim, config.num_heads, config.dropout)
        self.multihead_attn = image_attention(config)
        self.norm1 = nn.LayerNorm(config.hidden_dim)
        self.norm2 = nn.LayerNorm(config.hidden_dim)
        self.norm3 = nn.LayerNorm(config.hidden_dim)

    def forward(self, queries: Queries, memory: Memory) -> Queries:
        """Queries -> Queries with new tokens."""

        def attend_queries(x: Tensor) -> Tensor:
            return self.self_attn(Queries(x, queries.position), Memory(x, queries.position))

        def attend_image(x: Tensor) -> Tensor:
            return self.multihead_attn(queries._replace(tokens=x), memory)

        x = self.residual(queries.tokens, self.norm1, attend_queries)
        x = self.residual(x, self.norm2, attend_image)
        return queries._replace(tokens=self.residual(x, self.norm3, self.feed_forward))


def image_attention(config: ModelConfig) -> nn.Module:
    """Build the attention to the image, of encoder and decoder layers."""
    return MultiHeadAttention(config.hidden_dim, config.num_heads, config.dropout)


class Encoder(CheckpointedStack):
    """A stack of encoder layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim) if config.norm == "pre" else nn.Identity()

    def forward(self, memory: Memory) -> Memory:
        """Memory -> Memory with new tokens."""
        for layer in self.layers:
            memory = self.call(layer, memory)
        return memory._replace(tokens=self.norm(memory.tokens))


class Decoder(CheckpointedStack):
    """A stack of decoder layers whose every output passes the same final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, queries: Queries, memory: Memory) -> Decoded:
        """Decode the queries of each image by all layers."""
        tokens, references = [], []
        for layer in self.layers:
            if queries.references is not None:
                references.append(queries.references)
            queries = self.call(layer, queries, memory)
            tokens.append(self.norm(queries.tokens))
        return Decoded(torch.stack(tokens), torch.stack(references) if references else None)


class Transformer(nn.Module):
    """Encoder and decoder; every matrix in here starts Xavier uniform."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, memory: Memory, queries_of: Callable[[Memory], Queries]) -> Decoded:
        """Encode the memory, and decode the queries that `queries_of` makes of it."""
        memory = self.encoder(memory)
        return self.decoder(queries_of(memory), memory)
