"""A DETR of torch's and torchvision's own layers, as they are by default: what one writes who reads the paper.

Frozen batch norms are layers of their own, attention is nn.MultiheadAttention that also returns its weights, sequences
come first, and every loss of every layer is computed by itself (benchmarks.losses). Parameters have our names.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from detr.models.heads import MLP
from detr.models.position_encoding import SinePositionEmbedding


class Layer(nn.Module):
    """A post-norm layer of the encoder, or with `cross` of the decoder."""

    def __init__(self, d: int, cross: bool, heads: int = 8, width: int = 2048, p: float = 0.1) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d, heads, dropout=p)
        self.multihead_attn = nn.MultiheadAttention(d, heads, dropout=p) if cross else None
        self.linear1, self.linear2 = nn.Linear(d, width), nn.Linear(width, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.norm3 = nn.LayerNorm(d) if cross else None
        self.drop = nn.ModuleList(nn.Dropout(p) for _ in range(4))

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None, memory: tuple[Tensor, ...] = ()) -> Tensor:
        """x and position (T, B, d); memory: tokens and their positions (T', B, d), and mask (B, T') of them."""
        located = x + position
        x = self.norm1(x + self.drop[0](self.self_attn(located, located, value=x, key_padding_mask=mask)[0]))
        if memory:
            tokens, places, padding = memory
            found = self.multihead_attn(x + position, tokens + places, value=tokens, key_padding_mask=padding)[0]
            x = self.norm2(x + self.drop[1](found))
        forward = self.linear2(self.drop[2](self.linear1(x).relu()))
        return (self.norm3 if memory else self.norm2)(x + self.drop[3](forward))


class PlainDETR(nn.Module):
    """ResNet-50, 6 + 6 layers, 100 queries."""

    def __init__(self, num_classes: int = 91, d: int = 256, queries: int = 100) -> None:
        super().__init__()
        network = resnet50(norm_layer=FrozenBatchNorm2d)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
        self.body = IntermediateLayerGetter(network, {"layer4": "features"})
        self.position = SinePositionEmbedding(d)
        self.input_proj, self.query_embed = nn.Conv2d(2048, d, 1), nn.Embedding(queries, d)
        self.encoder = nn.ModuleList(Layer(d, cross=False) for _ in range(6))
        self.decoder = nn.ModuleList(Layer(d, cross=True) for _ in range(6))
        self.norm = nn.LayerNorm(d)
        self.class_embed, self.bbox_embed = nn.Linear(d, num_classes + 1), MLP(d, d, 4, num_layers=3)

    def forward(self, images: Tensor, padding_mask: Tensor) -> dict:
        """As detr.models.DETR."""
        features = self.input_proj(self.body(images)["features"])
        mask = nn.functional.interpolate(padding_mask[None].float(), size=features.shape[-2:])[0].bool()
        position = self.position(mask).flatten(1, 2).transpose(0, 1)
        tokens, mask = features.flatten(2).permute(2, 0, 1), mask.flatten(1)
        for layer in self.encoder:
            tokens = layer(tokens, position, mask)
        queries = self.query_embed.weight[:, None].repeat(1, len(images), 1)
        x, layers = torch.zeros_like(queries), []
        for layer in self.decoder:
            x = layer(x, queries, None, (tokens, position, mask))
            layers.append(self.norm(x).transpose(0, 1))
        decoded = torch.stack(layers)
        outputs = zip(self.class_embed(decoded), self.bbox_embed(decoded).sigmoid(), strict=True)
        *aux, last = ({"pred_logits": logits, "pred_boxes": boxes} for logits, boxes in outputs)
        return {**last, "aux_outputs": aux}

    def load_ours(self, state: dict[str, Tensor]) -> None:
        """Take the parameters of a detr.models.DETR."""
        names = {"transformer.encoder.layers.": "encoder.", "transformer.decoder.layers.": "decoder.",
                 "transformer.decoder.norm.": "norm.", "backbone.0.body.": "body."}  # fmt: skip
        for ours, here in names.items():
            state = {here + key.removeprefix(ours) if key.startswith(ours) else key: x for key, x in state.items()}
        self.load_state_dict(state)
