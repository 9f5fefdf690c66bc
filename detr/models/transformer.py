"""Encoder and decoder (facebookresearch/detr, models/transformer.py), batch first.

Positions are added to queries and keys of every attention, never to values. Post-LN normalises after each residual
sum; pre-LN normalises the input of each sublayer, adds the position after the norm, and closes the encoder with a norm.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detr.config import ModelConfig
from detr.models.dropout import Dropout, relu_dropout


class Memory(NamedTuple):
    """The encoder's output, as the decoder attends to it."""

    tokens: Tensor  # (B, T, d)
    position: Tensor  # (B, T, d)
    padding_mask: Tensor  # (B, T), True on padding
    level_shapes: list[tuple[int, int]]  # (H, W) of each feature level; their areas sum to T


class _Layer(nn.Module):
    """What encoder and decoder layers share: the norm placement and the feed-forward sublayer."""

    def __init__(self, config: ModelConfig, num_sublayers: int) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.linear1 = nn.Linear(config.hidden_dim, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        for i in range(1, num_sublayers + 1):
            self.add_module(f"norm{i}", nn.LayerNorm(config.hidden_dim))

    def residual(self, x: Tensor, norm: nn.LayerNorm, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x + sublayer(norm(x)) in pre-LN, norm(x + sublayer(x)) in post-LN."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.linear2(relu_dropout(self.linear1(x), self.dropout.p if self.training else 0.0))


class EncoderLayer(_Layer):
    """Self-attention over the image's tokens, then the feed-forward."""

    def __init__(self, config: ModelConfig, attention: type[nn.Module]) -> None:
        super().__init__(config, num_sublayers=2)
        self.self_attn = attention(config.hidden_dim, config.num_heads, config.dropout)

    def forward(self, memory: Memory) -> Memory:
        """Memory -> Memory with new tokens."""

        def attend(x: Tensor) -> Tensor:
            located = x + memory.position
            return self.self_attn(located, located, x, memory.padding_mask, memory.level_shapes)

        x = self.residual(memory.tokens, self.norm1, attend)
        return memory._replace(tokens=self.residual(x, self.norm2, self.feed_forward))


class DecoderLayer(_Layer):
    """Self-attention of the object queries, attention to the image, then the feed-forward."""

    def __init__(self, config: ModelConfig, attention: type[nn.Module]) -> None:
        super().__init__(config, num_sublayers=3)
        self.self_attn = attention(config.hidden_dim, config.num_heads, config.dropout)
        self.multihead_attn = attention(config.hidden_dim, config.num_heads, config.dropout)

    def forward(self, x: Tensor, memory: Memory, query_embed: Tensor) -> Tensor:
        """x, query_embed (B, Q, d) -> (B, Q, d)."""

        def attend_queries(x: Tensor) -> Tensor:
            located = x + query_embed
            return self.self_attn(located, located, x)

        def attend_image(x: Tensor) -> Tensor:
            keys = memory.tokens + memory.position
            return self.multihead_attn(x + query_embed, keys, memory.tokens, memory.padding_mask, memory.level_shapes)

        x = self.residual(x, self.norm1, attend_queries)
        x = self.residual(x, self.norm2, attend_image)
        return self.residual(x, self.norm3, self.feed_forward)


class Encoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, config: ModelConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config, attention) for _ in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim) if config.norm == "pre" else nn.Identity()

    def forward(self, memory: Memory) -> Memory:
        """Memory -> Memory with new tokens."""
        for layer in self.layers:
            memory = layer(memory)
        return memory._replace(tokens=self.norm(memory.tokens))


class Decoder(nn.Module):
    """A stack of decoder layers whose every output passes the same final norm."""

    def __init__(self, config: ModelConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config, attention) for _ in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, memory: Memory, query_embed: Tensor) -> Tensor:
        """query_embed (Q, d) -> outputs of all layers (L, B, Q, d)."""
        query_embed = query_embed.expand(len(memory.tokens), -1, -1)
        x = torch.zeros_like(query_embed)
        outputs = []
        for layer in self.layers:
            x = layer(x, memory, query_embed)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """Encoder and decoder; every matrix in here starts Xavier uniform."""

    def __init__(self, config: ModelConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.encoder = Encoder(config, attention)
        self.decoder = Decoder(config, attention)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, padding_mask: Tensor, position: Tensor, query_embed: Tensor) -> Tensor:
        """features (B, d, H, W), padding_mask (B, H, W), position (B, H, W, d), query_embed (Q, d) -> (L, B, Q, d)."""
        memory = Memory(
            tokens=features.flatten(2).transpose(1, 2),  # (B, H*W, d)
            position=position.flatten(1, 2),
            padding_mask=padding_mask.flatten(1),
            level_shapes=[tuple(features.shape[-2:])],
        )
        return self.decoder(self.encoder(memory), query_embed)
