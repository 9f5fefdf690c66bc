"""A second witness: transformers' DETR with the same weights says the same.

It is an implementation by other people, written from the same paper. Only post-LN exists there.
"""

import importlib
import re

import pytest
import torch

from detr.config import LossConfig
from detr.criterion import SetCriterion
from detr.data.batch import pad_images
from detr.fidelity.golden import draw_weights
from detr.matcher import stack_layers
from detr.models import build_model

transformers = pytest.importorskip("transformers", reason="the dev extra installs it")
ForObjectDetectionLoss = importlib.import_module("transformers.loss.loss_for_object_detection").ForObjectDetectionLoss

QUERIES, CLASSES = 7, 5
RENAMED = (  # theirs -> ours, applied in this order
    (r"^model\.backbone\.model\.embedder\.embedder\.convolution", "backbone.0.body.conv1"),
    (r"^model\.backbone\.model\.embedder\.embedder\.normalization", "backbone.0.body.bn1"),
    (r"^model\.backbone\.model\.encoder\.stages\.(\d)", lambda m: f"backbone.0.body.layer{int(m[1]) + 1}"),
    (r"(body\.layer\d)\.layers\.", r"\1."),
    (r"\.layer\.(\d)\.convolution", lambda m: f".conv{int(m[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda m: f".bn{int(m[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"^model\.position_embedding\.row_embeddings", "backbone.1.row_embed"),
    (r"^model\.position_embedding\.column_embeddings", "backbone.1.col_embed"),
    (r"^model\.query_position_embeddings", "query_embed"),
    (r"^model\.input_projection", "input_proj"),
    (r"^class_labels_classifier", "class_embed"),
    (r"^bbox_predictor", "bbox_embed"),
    (r"^model\.(encoder|decoder)", r"transformer.\1"),
    (r"decoder\.layernorm", "decoder.norm"),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm2"),
    (r"(encoder\.layers\.\d)\.final_layer_norm", r"\1.norm2"),
    (r"(decoder\.layers\.\d)\.final_layer_norm", r"\1.norm3"),
    (r"encoder_attn", "multihead_attn"),
    (r"mlp\.fc", "linear"),
    (r"o_proj", "out_proj"),
)


def carried_over(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Their state dict under our names; query, key and value projections are one matrix here."""
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in theirs.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        ours[name] = tensor
    for name in [n for n in ours if "q_proj" in n]:
        parts = [ours.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        ours[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return ours


def build_both(tiny_model, backbone: str = "resnet18", position: str = "sine"):
    layer_type, sizes, depths = {
        "resnet18": ("basic", [64, 128, 256, 512], [2, 2, 2, 2]),
        "resnet50": ("bottleneck", [256, 512, 1024, 2048], [3, 4, 6, 3]),
    }[backbone]
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=transformers.ResNetConfig(
            layer_type=layer_type, hidden_sizes=sizes, depths=depths, out_features=["stage4"]
        ),
        position_embedding_type=position,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        dropout=0.0,
        num_queries=QUERIES,
        num_labels=CLASSES,
        # With auxiliary_loss their decoder feeds normed outputs to its next layer, and norms the last one twice,
        # which the official code does not do. The auxiliary losses are compared apart from their model.
        auxiliary_loss=False,
    )
    theirs = transformers.DetrForObjectDetection(config)
    draw_weights(theirs)  # their initial weights are so small that everything after the norms is nearly constant
    ours = build_model(
        tiny_model(
            backbone=backbone,
            position_embedding=position,
            hidden_dim=32,
            num_heads=4,
            num_encoder_layers=2,
            num_decoder_layers=3,
            dim_feedforward=64,
            num_queries=QUERIES,
            num_classes=CLASSES,
        )
    )
    ours.load_state_dict(carried_over(theirs.state_dict()))
    return ours, theirs


def batch_of(*sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return pad_images([torch.randn(3, *size, generator=generator) for size in sizes])


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert theirs.std() > 1e-3  # there is something to compare
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [[(128, 160)], [(128, 160), (96, 70), (64, 33)]], ids=["no padding", "padding"])
@pytest.mark.parametrize(
    ("backbone", "position"), [("resnet18", "sine"), ("resnet18", "learned"), ("resnet50", "sine")]
)
def test_logits_and_boxes(tiny_model, backbone, position, sizes):
    ours, theirs = build_both(tiny_model, backbone, position)
    images, mask = batch_of(*sizes)
    with torch.no_grad():
        found, expected = ours.eval()(images, mask), theirs.eval()(images, pixel_mask=(~mask).long())
    assert_same(found["pred_logits"], expected.logits)
    assert_same(found["pred_boxes"], expected.pred_boxes)


def test_batch_norm_is_frozen_in_training_too(tiny_model):
    """In training mode the running statistics, which are not 0 and 1 here, still count and stay as they are."""
    ours, theirs = build_both(tiny_model)
    images, mask = batch_of((128, 160), (96, 70))
    for _ in range(2):
        found, expected = ours.train()(images, mask), theirs.train()(images, pixel_mask=(~mask).long())
        assert_same(found["pred_logits"], expected.logits)
    assert all(torch.equal(x, ours.state_dict()[name]) for name, x in carried_over(theirs.state_dict()).items())


def test_the_same_parameters_train(tiny_model):
    """Outside the backbone: transformers looks for "stage.1" in names that hold "stages.1", and freezes all of it."""
    ours, theirs = build_both(tiny_model)
    trained = {name for name, p in theirs.named_parameters() if p.requires_grad and "backbone" not in name}
    expected = carried_over({name: dict(theirs.named_parameters())[name] for name in trained}).keys()
    assert {name for name, p in ours.named_parameters() if p.requires_grad and "backbone" not in name} == expected


COUNTS = pytest.mark.parametrize(
    "counts", [[3, 1], [2, 0], [0, 0], [9, 1]], ids=["objects", "one empty", "all empty", "more than queries"]
)


def as_labels(targets: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    return [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]


@COUNTS
def test_losses_and_gradients(tiny_model, random_targets, counts):
    """Cross-entropy, L1 and GIoU after the matching, and the gradient of their weighted sum in every parameter."""
    ours, theirs = build_both(tiny_model)
    images, mask = batch_of((128, 160), (96, 70))
    targets = random_targets(counts, num_classes=CLASSES)
    criterion = SetCriterion(CLASSES, LossConfig(aux_loss=False))
    losses = criterion(ours(images, mask), targets)
    outputs = theirs(images, pixel_mask=(~mask).long(), labels=as_labels(targets))
    for key in ("loss_ce", "loss_bbox", "loss_giou", "cardinality_error"):
        torch.testing.assert_close(losses[key], outputs.loss_dict[key], rtol=1e-4, atol=1e-4, msg=key)
    torch.testing.assert_close(criterion.total(losses), outputs.loss, rtol=1e-4, atol=1e-4)
    criterion.total(losses).backward()
    outputs.loss.backward()
    gradients = carried_over({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    assert len(gradients) > 60
    for name, gradient in gradients.items():
        found = ours.get_parameter(name).grad
        assert (found - gradient).norm() <= 1e-4 * (1 + gradient.norm()), name


@COUNTS
def test_auxiliary_losses(random_outputs, random_targets, counts):
    """Their criterion and ours on the same outputs of four layers."""
    outputs = random_outputs(2, queries=QUERIES, num_classes=CLASSES, layers=4)
    targets = random_targets(counts, num_classes=CLASSES)
    logits, boxes = stack_layers(outputs)
    config = transformers.DetrConfig(use_timm_backbone=False, num_labels=CLASSES, decoder_layers=4, auxiliary_loss=True)
    total, expected, _ = ForObjectDetectionLoss(
        logits[-1], as_labels(targets), "cpu", boxes[-1], config, outputs_class=logits, outputs_coord=boxes
    )
    criterion = SetCriterion(CLASSES)
    losses = criterion(outputs, targets)
    assert losses.keys() - expected.keys() == {"class_error"}  # which they do not compute
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-4, atol=1e-4, msg=key)
    torch.testing.assert_close(criterion.total(losses), torch.as_tensor(total), rtol=1e-4, atol=1e-4)
