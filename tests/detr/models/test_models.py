"""The model's structure: norms, what trains, padding, shapes, initialisation, precision."""

import math

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

from detr.config import ModelConfig
from detr.data.batch import pad_images
from detr.errors import InputError
from detr.models import build_model
from detr.models.attention import MultiHeadAttention
from detr.models.backbone import build_backbone
from detr.models.detr import feature_mask
from detr.models.memory import Memory, build_memory
from detr.models.queries import Queries


def no_padding(images: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("position", ["sine", "learned"])
def test_output_shapes(tiny_model, norm, position):
    model = build_model(tiny_model(norm=norm, position_embedding=position, num_decoder_layers=3))
    images = torch.randn(2, 3, 40, 64)
    outputs = model(images, no_padding(images))
    assert outputs["pred_logits"].shape == (2, 5, 4)
    assert outputs["pred_boxes"].shape == (2, 5, 4)
    assert 0 < outputs["pred_boxes"].min() <= outputs["pred_boxes"].max() < 1
    assert len(outputs["aux_outputs"]) == 2


@pytest.mark.parametrize(("layers", "aux"), [(1, 0), (3, 2)])
def test_one_auxiliary_output_for_every_layer_but_the_last(tiny_model, layers, aux):
    images = torch.randn(1, 3, 32, 32)
    outputs = build_model(tiny_model(num_decoder_layers=layers))(images, no_padding(images))
    assert len(outputs["aux_outputs"]) == aux
    for layer in outputs["aux_outputs"]:
        assert not torch.allclose(layer["pred_boxes"], outputs["pred_boxes"])


def test_no_encoder_at_all_and_the_number_of_classes_must_be_known(tiny_model):
    images = torch.randn(1, 3, 32, 32)
    assert build_model(tiny_model(num_encoder_layers=0))(images, no_padding(images))["pred_logits"].shape == (1, 5, 4)
    with pytest.raises(InputError, match="num_classes"):
        build_model(tiny_model(num_classes=None))


# Norm placement


def test_only_pre_norm_closes_the_encoder_with_a_norm(tiny_model):
    post, pre = (build_model(tiny_model(norm=norm)).transformer for norm in ("post", "pre"))
    assert isinstance(post.encoder.norm, nn.Identity)
    assert isinstance(pre.encoder.norm, nn.LayerNorm)
    assert isinstance(post.decoder.norm, nn.LayerNorm)
    assert isinstance(pre.decoder.norm, nn.LayerNorm)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_every_decoder_layer_passes_the_final_norm(tiny_model, norm):
    """With the final norm's weight at 0 all layers say the same: what its bias gives."""
    model = build_model(tiny_model(norm=norm))
    nn.init.zeros_(model.transformer.decoder.norm.weight)
    images = torch.randn(1, 3, 32, 32)
    outputs = model(images, no_padding(images))
    expected = model.class_embed(model.transformer.decoder.norm.bias).expand(1, 5, 4)
    torch.testing.assert_close(outputs["pred_logits"], expected)
    torch.testing.assert_close(outputs["aux_outputs"][0]["pred_logits"], expected)


def attention_by_hand(module, query, key, value) -> torch.Tensor:
    parts = zip((query, key, value), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    q, k, v = (nn.functional.linear(*part).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return module.out_proj((weights @ v).transpose(1, 2).flatten(2))


def encoder_layer_by_hand(layer, x, position, norm) -> torch.Tensor:
    """transformer.py: forward_post and forward_pre, without dropout."""

    def attend(source: torch.Tensor) -> torch.Tensor:
        return attention_by_hand(layer.self_attn, source + position, source + position, source)

    def feed_forward(source: torch.Tensor) -> torch.Tensor:
        return layer.linear2(layer.linear1(source).relu())

    if norm == "post":
        x = layer.norm1(x + attend(x))
        return layer.norm2(x + feed_forward(x))
    x = x + attend(layer.norm1(x))  # the position is added after the norm
    return x + feed_forward(layer.norm2(x))


def decoder_layer_by_hand(layer, x, memory, query_embed, norm) -> torch.Tensor:
    def attend_self(source: torch.Tensor) -> torch.Tensor:
        return attention_by_hand(layer.self_attn, source + query_embed, source + query_embed, source)

    def attend_image(source: torch.Tensor) -> torch.Tensor:
        keys = memory.tokens + memory.position
        return attention_by_hand(layer.multihead_attn, source + query_embed, keys, memory.tokens)

    def feed_forward(source: torch.Tensor) -> torch.Tensor:
        return layer.linear2(layer.linear1(source).relu())

    for norm_layer, sublayer in zip(
        (layer.norm1, layer.norm2, layer.norm3), (attend_self, attend_image, feed_forward), strict=True
    ):
        x = norm_layer(x + sublayer(x)) if norm == "post" else x + sublayer(norm_layer(x))
    return x


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_layers_are_the_official_ones(tiny_model, norm):
    transformer = build_model(tiny_model(norm=norm)).transformer
    for p in transformer.parameters():
        nn.init.normal_(p, std=0.5)  # norms and biases away from 1 and 0
    tokens, position, query_embed, x = (torch.randn(2, n, 16) for n in (6, 6, 5, 5))
    memory = Memory(tokens, position, torch.zeros(2, 6, dtype=torch.bool), ((2, 3),))
    torch.testing.assert_close(
        transformer.encoder.layers[0](memory).tokens,
        encoder_layer_by_hand(transformer.encoder.layers[0], tokens, position, norm),
    )
    torch.testing.assert_close(
        transformer.decoder.layers[0](Queries(x, query_embed), memory).tokens,
        decoder_layer_by_hand(transformer.decoder.layers[0], x, memory, query_embed, norm),
    )


def test_dropout_acts_in_attention_feed_forward_and_residuals(tiny_model):
    model = build_model(tiny_model(dropout=0.3))
    attentions = [m for m in model.modules() if isinstance(m, MultiHeadAttention)]
    assert [m.dropout for m in attentions] == [0.3] * 5
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.3}
    layer = model.transformer.encoder.layers[0].train()
    layer.dropout.p = 1 - 1e-7  # everything but the shortcut is dropped
    x = torch.randn(1, 4, 16)
    torch.testing.assert_close(layer.residual(x, nn.Identity(), lambda y: y + 1), x)


# Backbone


def test_only_layers_2_to_4_of_the_resnet_train_and_its_norms_are_frozen():
    model = build_model(ModelConfig(backbone="resnet18", pretrained=False))
    body = model.backbone[0].body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    frozen = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    norms = [m for m in body.modules() if "norm" in type(m).__name__.lower()]
    assert norms
    assert all(isinstance(m, FrozenBatchNorm2d) and m.eps == 1e-5 for m in norms)
    assert not [name for name, _ in body.named_parameters() if ".bn" in name or "downsample.1" in name]


def test_frozen_norm_does_not_learn_from_the_batch():
    model = build_model(ModelConfig(backbone="resnet18", pretrained=False, hidden_dim=16, num_heads=2)).train()
    before = {name: x.clone() for name, x in model.backbone[0].state_dict().items() if "running" in name}
    images = torch.randn(2, 3, 64, 64)
    model(images, no_padding(images))
    assert before
    assert all(torch.equal(model.backbone[0].state_dict()[name], x) for name, x in before.items())


@pytest.mark.parametrize(
    ("changes", "channels", "stride"),
    [
        ({"backbone": "resnet18"}, 512, 32),
        ({"backbone": "resnet34"}, 512, 32),
        ({"backbone": "resnet50"}, 2048, 32),
        ({"backbone": "resnet50", "dilation": True}, 2048, 16),
        ({"backbone": "small", "backbone_stride": 8}, 32, 8),
        ({"backbone": "small", "backbone_stride": 16}, 64, 16),
        ({"backbone": "small", "backbone_norm": "batch"}, 32, 8),
    ],
)
def test_channels_and_stride_of_the_backbones(tiny_model, changes, channels, stride):
    backbone = build_model(tiny_model(**changes)).backbone[0]
    with torch.no_grad():
        (features,) = backbone(torch.randn(1, 3, 64, 128))
    assert backbone.num_channels == [channels]
    assert backbone.strides == [stride]
    assert features.shape == (1, channels, 64 // stride, 128 // stride)


def test_dilation_keeps_names_and_shapes_of_the_plain_network():
    plain, dilated = (ModelConfig(pretrained=False, dilation=d) for d in (False, True))
    plain, dilated = build_model(plain).state_dict(), build_model(dilated).state_dict()
    assert {k: v.shape for k, v in plain.items()} == {k: v.shape for k, v in dilated.items()}


def test_stages_of_the_small_backbone_are_levels(tiny_model):
    backbone = build_backbone(tiny_model(backbone_stride=16), num_levels=3)
    levels = backbone(torch.randn(1, 3, 64, 96))
    assert backbone.num_channels == [16, 32, 64] == [level.shape[1] for level in levels]
    assert backbone.strides == [4, 8, 16]
    assert [level.shape[-2:] for level in levels] == [(16, 24), (8, 12), (4, 6)]
    whole = build_backbone(tiny_model(backbone_stride=16))
    whole.load_state_dict(backbone.state_dict())
    assert torch.equal(whole(torch.ones(1, 3, 64, 96))[0], backbone(torch.ones(1, 3, 64, 96))[-1])


def test_local_backbone_weights_are_loaded_and_others_refused(tiny_model, tmp_path):
    path = tmp_path / "resnet18.pth"
    network = torchvision_models.resnet18()
    torch.save(network.state_dict(), path)
    body = build_model(tiny_model(backbone="resnet18", pretrained=str(path))).backbone[0].body
    assert torch.equal(body.layer3[1].conv2.weight, network.layer3[1].conv2.weight)
    with pytest.raises(InputError, match=r"resnet18.pth: not a state dict of this backbone"):
        build_model(tiny_model(backbone="resnet34", pretrained=str(path)))
    with pytest.raises(InputError, match="no such file"):
        build_model(tiny_model(backbone="resnet18", pretrained=str(tmp_path / "nothing.pth")))


# Initialisation


def test_xavier_in_the_transformer_and_torch_defaults_elsewhere():
    model = build_model(ModelConfig(backbone="resnet18", pretrained=False))
    layer = model.transformer.decoder.layers[0]
    for weight in (layer.linear1.weight, layer.self_attn.out_proj.weight, layer.multihead_attn.in_proj_weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
    assert abs(model.query_embed.weight.std().item() - 1) < 0.05
    for linear in (model.class_embed, model.bbox_embed.layers[0]):
        bound = 1 / math.sqrt(linear.in_features)
        assert 0.95 * bound < linear.weight.abs().max() <= bound
    assert model.input_proj.bias is not None


# Padding


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_what_stands_on_the_padding_does_not_matter(tiny_model, norm, backbone):
    """Tokens that are padding are seen by nobody: features of other padding give the same answer."""
    model = build_model(tiny_model(norm=norm, backbone=backbone)).eval()
    features, mask = torch.randn(2, 16, 4, 6), torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[0, 2:], mask[1, :, 3:] = True, True
    position = model.backbone[1](mask)
    other = torch.where(mask[:, None], torch.randn_like(features) * 9, features)

    def decoded(features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.transformer(build_memory([features], [mask], [position]), model.query_embed).tokens

    torch.testing.assert_close(decoded(features, mask), decoded(other, mask))
    assert not torch.allclose(decoded(features, mask), decoded(features, mask & False))


@pytest.mark.parametrize("padding", ["rows", "everything"])
def test_heavy_padding_gives_no_nan(tiny_model, padding):
    """The official code gives NaN when no token is left (issue 101)."""
    model = build_model(tiny_model(position_embedding="sine"))
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0] = True
    if padding == "rows":
        mask[0, :1, :1] = False
    outputs = model(images, mask)
    total = outputs["pred_boxes"].sum() + outputs["pred_logits"].sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_feature_mask_is_the_nearest_pixel():
    _, mask = pad_images([torch.zeros(3, 33, 63), torch.zeros(3, 64, 95)])
    found = feature_mask(mask, (2, 3))
    assert found.tolist() == [[[False, False, True], [False, False, True]], [[False] * 3] * 2]
    assert feature_mask(torch.ones(1, 8, 8, dtype=torch.bool), (2, 2)).tolist() == [[[False, True], [True, True]]]


# Precision


def test_bfloat16_keeps_logits_boxes_and_both_heads_in_float32(tiny_model):
    model = build_model(tiny_model())
    images = torch.randn(1, 3, 64, 64)
    head_dtypes, transformer_dtypes = [], []
    for module, seen in ((model.bbox_embed.layers[0], head_dtypes), (model.class_embed, head_dtypes)):
        module.register_forward_hook(lambda _m, inputs, output, seen=seen: seen.extend([inputs[0].dtype, output.dtype]))
    model.transformer.encoder.layers[0].linear1.register_forward_hook(
        lambda _m, _i, output: transformer_dtypes.append(output.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(images, no_padding(images))
    assert transformer_dtypes == [torch.bfloat16]
    assert set(head_dtypes) == {torch.float32}
    assert outputs["pred_logits"].dtype == outputs["pred_boxes"].dtype == torch.float32
    exact = model(images, no_padding(images))
    torch.testing.assert_close(outputs["pred_boxes"], exact["pred_boxes"], rtol=0, atol=0.02)
