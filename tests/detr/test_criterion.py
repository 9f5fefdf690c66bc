"""The losses against a plain re-implementation of the official code, and exact accumulation."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou

from detr.config import LossConfig
from detr.criterion import SetCriterion
from detr.fidelity.golden import draw_weights
from detr.matcher import stack_layers
from detr.models import build_model


def reference_layer(logits, boxes, targets, num_classes, num_boxes) -> dict[str, torch.Tensor]:
    """models/detr.py and models/matcher.py of the official code for one layer, image by image."""
    classes = torch.full(logits.shape[:2], num_classes)
    loss_bbox = loss_giou = torch.zeros(())
    wrong, cardinality = [], []
    for i, target in enumerate(targets):
        corners = box_convert(boxes[i], "cxcywh", "xyxy")
        target_corners = box_convert(target["boxes"], "cxcywh", "xyxy")
        cost = (
            5 * torch.cdist(boxes[i], target["boxes"], p=1)
            - logits[i].softmax(-1)[:, target["labels"]]
            - 2 * generalized_box_iou(corners, target_corners)
        )
        for query, k in zip(*linear_sum_assignment(cost.detach()), strict=True):
            classes[i, query] = target["labels"][k]
            loss_bbox = loss_bbox + F.l1_loss(boxes[i, query], target["boxes"][k], reduction="sum")
            pair = generalized_box_iou(corners[None, query], target_corners[None, k])
            loss_giou = loss_giou + 1 - pair[0, 0]
            wrong.append(logits[i, query].argmax() != target["labels"][k])
        predicted = (logits[i].argmax(-1) != num_classes).sum()
        cardinality.append((predicted - len(target["labels"])).abs().float())
    weight = torch.ones(num_classes + 1)
    weight[-1] = 0.1
    return {
        "loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, weight),
        "loss_bbox": loss_bbox / num_boxes,
        "loss_giou": loss_giou / num_boxes,
        "cardinality_error": torch.stack(cardinality).mean(),
        "class_error": 100 * torch.tensor(wrong).float().mean(),
    }


def reference(outputs, targets, num_classes=3) -> dict[str, torch.Tensor]:
    num_boxes = max(1, sum(len(t["labels"]) for t in targets))
    losses = {}
    for suffix, layer in [("", outputs), *((f"_{i}", x) for i, x in enumerate(outputs["aux_outputs"]))]:
        found = reference_layer(layer["pred_logits"], layer["pred_boxes"], targets, num_classes, num_boxes)
        losses |= {key + suffix: value for key, value in found.items() if not (suffix and key == "class_error")}
    return losses


@given(st.lists(st.integers(0, 8), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 10_000))
def test_losses_and_gradients_are_the_official_ones(random_outputs, random_targets, counts, layers, seed):
    """Among the counts are images without objects and images with more objects than the 5 queries."""
    outputs, targets = random_outputs(len(counts), layers=layers, seed=seed), random_targets(counts, seed=seed + 1)
    leaves = [x for layer in [*outputs["aux_outputs"], outputs] for x in (layer["pred_logits"], layer["pred_boxes"])]
    for leaf in leaves:
        leaf.requires_grad_()
    criterion = SetCriterion(3)
    losses, expected = criterion(outputs, targets), reference(outputs, targets)
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-5, equal_nan=True, msg=key)
    total = sum(
        value * (1 if "ce" in key else 5 if "bbox" in key else 2)
        for key, value in expected.items()
        if key.startswith("loss")
    )
    torch.testing.assert_close(criterion.total(losses), total)
    ours = torch.autograd.grad(criterion.total(losses), leaves)
    for a, b in zip(ours, torch.autograd.grad(total, leaves, materialize_grads=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_batch_without_any_object(random_outputs, random_targets):
    outputs = random_outputs(2)
    outputs["pred_boxes"].requires_grad_()
    criterion = SetCriterion(3)
    losses = criterion(outputs, random_targets([0, 0]))
    everything_empty = F.cross_entropy(outputs["pred_logits"].flatten(0, 1), torch.full((10,), 3))
    torch.testing.assert_close(losses["loss_ce"], everything_empty)
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    assert losses["class_error"].isnan()  # there is nothing to get wrong: neither 0 nor 100
    criterion.total(losses).backward()
    assert torch.equal(outputs["pred_boxes"].grad, torch.zeros(2, 5, 4))


def test_class_error_is_the_share_of_matched_objects_with_the_wrong_class(random_targets):
    targets = random_targets([2, 1])
    boxes = torch.zeros(2, 4, 4) + 0.9
    boxes[0, :2], boxes[1, 0] = targets[0]["boxes"], targets[1]["boxes"][0]
    logits = torch.zeros(2, 4, 4)
    logits[..., 3] = 5  # unmatched queries say no-object
    for image, query, label in ((0, 0, targets[0]["labels"][0]), (0, 1, targets[0]["labels"][1])):
        logits[image, query, label] = 9
    losses = SetCriterion(3)({"pred_logits": logits, "pred_boxes": boxes}, targets)
    assert losses["class_error"].item() == pytest.approx(100 / 3)
    assert losses["loss_bbox"] == 0


def test_perfect_prediction_has_no_loss(random_targets):
    target = random_targets([3])[0]
    logits = torch.full((1, 5, 4), -50.0)
    logits[0, :, 3] = 50
    logits[0, [1, 2, 4], 3] = -50
    logits[0, [1, 2, 4], target["labels"]] = 50
    boxes = torch.full((1, 5, 4), 0.5)
    boxes[0, [1, 2, 4]] = target["boxes"]
    losses = SetCriterion(3)({"pred_logits": logits, "pred_boxes": boxes}, [target])
    for key, value in losses.items():
        assert value.item() == pytest.approx(0, abs=1e-5), key


def test_integer_boxes(random_outputs):
    target = {"labels": torch.tensor([1, 0]), "boxes": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])}
    outputs = random_outputs(1)
    losses = SetCriterion(3)(outputs, [target])
    for key, value in SetCriterion(3)(outputs, [target | {"boxes": target["boxes"].float()}]).items():
        torch.testing.assert_close(losses[key], value)


def test_losses_are_float32_whatever_the_outputs(random_outputs, random_targets):
    outputs, targets = random_outputs(2), random_targets([3, 1])

    def cast(dtype) -> dict:
        layers = [{k: v.bfloat16().to(dtype) for k, v in x.items()} for x in (outputs["aux_outputs"][0],)]
        last = {k: outputs[k].bfloat16().to(dtype) for k in ("pred_logits", "pred_boxes")}
        return {**last, "aux_outputs": layers}

    criterion = SetCriterion(3)
    rough, exact = criterion(cast(torch.bfloat16), targets), criterion(cast(torch.float32), targets)
    for key, value in exact.items():
        assert rough[key].dtype == torch.float32
        torch.testing.assert_close(rough[key], value, msg=key)
    double = [{**t, "boxes": t["boxes"].double()} for t in targets]
    assert {x.dtype for x in criterion(cast(torch.float32), double).values()} == {torch.float32}


def test_weights_of_the_total(random_outputs, random_targets):
    config = LossConfig(weight_ce=2, weight_bbox=3, weight_giou=7)
    criterion = SetCriterion(3, config)
    losses = criterion(random_outputs(2, layers=12), random_targets([1, 2]))  # two digits of layers
    expected = sum(
        2 * losses[f"loss_ce{s}"] + 3 * losses[f"loss_bbox{s}"] + 7 * losses[f"loss_giou{s}"]
        for s in ["", *(f"_{i}" for i in range(11))]
    )
    torch.testing.assert_close(criterion.total(losses), expected)


def test_a_suffix_does_not_change_the_weight_of_a_loss():
    criterion = SetCriterion(3, LossConfig(weight_ce=2, weight_bbox=3, weight_giou=7))
    keys = ["loss_ce", "loss_ce_enc", "loss_bbox_dn_11", "loss_giou_enc", "class_error", "cardinality_error_enc"]
    assert criterion.total({key: torch.tensor(1.0) for key in keys}) == 2 + 2 + 3 + 7


def test_without_auxiliary_losses_only_the_last_layer_counts(random_outputs, random_targets):
    outputs, targets = random_outputs(2), random_targets([1, 2])
    losses = SetCriterion(3, LossConfig(aux_loss=False))(outputs, targets)
    complete = SetCriterion(3)(outputs, targets)
    assert losses.keys() == {k for k in complete if not k[-1].isdigit()}
    assert losses["loss_ce"] == complete["loss_ce"]


def test_no_object_weight_of_zero_survives_an_empty_batch(random_outputs, random_targets):
    criterion = SetCriterion(3, LossConfig(no_object_weight=0))
    assert criterion.total(criterion(random_outputs(2), random_targets([0, 0]))) == 0


@given(
    st.lists(st.integers(0, 7), min_size=2, max_size=9),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.integers(0, 10_000),
)
def test_losses_of_any_split_add_up(random_outputs, random_targets, counts, cuts, seed):
    """Whatever part of the batch is computed together, with the normalisers of the whole the sum is the same."""
    outputs, targets = random_outputs(len(counts), seed=seed), random_targets(counts, seed=seed)
    criterion = SetCriterion(3)
    whole = criterion(outputs, targets)
    normalizers = criterion.normalizers(targets)
    starts = [0, *(i for i in range(1, len(counts)) if cuts[i]), len(counts)]
    sums = dict.fromkeys(whole, 0)
    for start, stop in pairwise(starts):
        last, before = (
            {k: layer[k][start:stop] for k in ("pred_logits", "pred_boxes")}
            for layer in (outputs, outputs["aux_outputs"][0])
        )
        for key, value in criterion({**last, "aux_outputs": [before]}, targets[start:stop], normalizers).items():
            sums[key] = sums[key] + value
    for key, value in whole.items():
        torch.testing.assert_close(torch.as_tensor(sums[key]), value, rtol=1e-5, atol=1e-5, equal_nan=True, msg=key)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
@pytest.mark.parametrize("counts", [[3, 0, 1, 7, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_gradients_of_micro_batches_equal_the_large_batch(tiny_model, random_targets, backbone, counts):
    """Group norm and frozen batch norm; images without objects fill the last micro-batch; 7 objects, 5 queries."""
    model = build_model(tiny_model(backbone=backbone))
    if backbone == "resnet18":
        draw_weights(model)  # as drawn by torchvision, activations without batch statistics grow and so does rounding
    criterion, targets = SetCriterion(3), random_targets(counts)
    images, mask = torch.randn(6, 3, 64, 64), torch.zeros(6, 64, 64, dtype=torch.bool)
    mask[:, :, 40:] = True
    normalizers = criterion.normalizers(targets)

    def gradients(size: int) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = 0.0
        for i in range(0, 6, size):
            part = slice(i, i + size)
            losses = criterion(model(images[part], mask[part]), targets[part], normalizers)
            total = criterion.total(losses)
            total.backward()
            loss += total.item()
        return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, expected = gradients(6)
    for size in (1, 2):
        loss, found = gradients(size)
        assert loss == pytest.approx(whole, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-5 * (1 + gradient.norm()), name


def test_stack_layers_puts_the_last_layer_last(random_outputs):
    outputs = random_outputs(2, layers=3)
    logits, boxes = stack_layers(outputs)
    assert logits.shape == (3, 2, 5, 4)
    assert torch.equal(logits[-1], outputs["pred_logits"])
    assert torch.equal(boxes[0], outputs["aux_outputs"][0]["pred_boxes"])
