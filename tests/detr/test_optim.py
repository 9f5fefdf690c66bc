"""The optimiser's groups, weight decay on everything, frozen backbones and clipping."""

import pytest
import torch

from detr.config import OptimConfig, ScheduleConfig
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients, optimizer_of, set_lr
from detr.schedule import lr_factor


def names_of(optimizer, model) -> dict[str, set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def test_two_groups_hold_every_trained_parameter_once(tiny_model):
    model = build_model(tiny_model(backbone="resnet18", position_embedding="learned"))
    optimizer = build_optimizer(model, lr=1e-3, backbone_lr=1e-4, weight_decay=0.02)
    groups = names_of(optimizer, model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert groups["main"] == {name for name in trained if "backbone" not in name}
    assert groups["backbone"] == {name for name in trained if "backbone" in name}
    assert "backbone.1.row_embed.weight" in groups["backbone"]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]


def test_weight_decay_reaches_norms_and_biases(tiny_model):
    """With gradients of 0, AdamW multiplies every parameter by 1 - lr * weight_decay."""
    model = build_model(tiny_model())
    optimizer = build_optimizer(model, lr=0.1, backbone_lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * 0.95, msg=name)


def loss_of(model) -> torch.Tensor:
    outputs = model(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    return outputs["pred_boxes"].square().sum() + outputs["pred_logits"].square().sum()


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_backbone_lr_of_zero_freezes_the_backbone_and_leaves_the_clipped_norm(tiny_model, backbone):
    model = build_model(tiny_model(backbone=backbone))
    optimizer = build_optimizer(model, lr=1e-3, backbone_lr=0, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss_of(model).backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    others = [p.grad.clone() for name, p in model.named_parameters() if not name.startswith("backbone")]
    assert clip_gradients(model.parameters(), 0.1) == pytest.approx(
        torch.cat([g.flatten() for g in others]).norm().item(), rel=1e-5
    )
    optimizer.step()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"transformer", "class_embed", "bbox_embed", "query_embed", "input_proj"}


def test_learned_positions_are_not_frozen_with_the_backbone(tiny_model):
    """As in the official code they are in its group, but only the network is frozen."""
    model = build_model(tiny_model(position_embedding="learned"))
    build_optimizer(model, lr=1e-3, backbone_lr=0, weight_decay=0)
    assert {name for name, p in model.named_parameters() if name.startswith("backbone") and p.requires_grad} == {
        "backbone.1.row_embed.weight",
        "backbone.1.col_embed.weight",
    }


@pytest.mark.parametrize(("bound", "after"), [(0.1, 0.1), (1e9, 5.0), (0.0, 5.0)])
def test_clipping_by_the_global_norm(bound, after):
    """Norm 5 over two parameters; a bound of 0 only measures."""
    model = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    model[0].grad, model[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients(model.parameters(), bound) == pytest.approx(5)
    assert torch.cat([p.grad for p in model]).norm().item() == pytest.approx(after, rel=1e-4)


def test_learning_rates_follow_the_schedule_in_both_groups(tiny_model):
    optimizer = optimizer_of(build_model(tiny_model()), OptimConfig(lr=2e-4, backbone_lr_ratio=0.1))
    for progress, factor in ((0, 1), (0.79, 1), (0.8, 0.1), (1, 0.1)):
        set_lr(optimizer, lr_factor(ScheduleConfig(shape="step"), progress))
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([2e-4 * factor, 2e-5 * factor])
