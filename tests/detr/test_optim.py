"""The optimiser's groups, weight decay on everything, frozen backbones and clipping."""

import pytest
import torch

from detr.config import GroupRule, OptimConfig, ScheduleConfig
from detr.config_io import from_dict
from detr.errors import InputError
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients, optimizer_of, set_lr
from detr.schedule import lr_factor
from detr.train import train


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


# Rules


def groups_of(model, config: OptimConfig) -> dict[str, tuple[float, float, set[str]]]:
    """Group name -> (lr, weight decay, names of parameters)."""
    optimizer = optimizer_of(model, config)
    names = names_of(optimizer, model)
    return {g["name"]: (g["lr"], g["weight_decay"], names[g["name"]]) for g in optimizer.param_groups}


def test_no_decay_on_norms_and_biases_is_one_rule_and_keeps_the_backbones_rate(tiny_model):
    model = build_model(tiny_model())
    rule = GroupRule(r"norm|bias$", weight_decay=0.0, name="no_decay")
    groups = groups_of(model, OptimConfig(lr=1e-3, weight_decay=0.1, groups=(rule,)))
    rates = {name: group[:2] for name, group in groups.items()}
    assert rates == {
        "main": (1e-3, 0.1),
        "no_decay": (1e-3, 0.0),
        "backbone": (pytest.approx(1e-4), 0.1),
        "no_decay_backbone": (pytest.approx(1e-4), 0.0),
    }
    named = {name for *_, names in groups.values() for name in names}
    assert named == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "transformer.encoder.layers.0.norm1.weight" in groups["no_decay"][2]
    assert "transformer.encoder.layers.0.linear1.weight" in groups["main"][2]


def test_layer_wise_rates_and_the_first_rule_that_states_a_value_wins(tiny_model):
    rules = tuple(GroupRule(rf"decoder\.layers\.{i}\.", lr_ratio=0.5 ** (2 - i), name=f"layer{i}") for i in range(2))
    rules += (GroupRule(r"decoder\.", lr_ratio=9.0, weight_decay=0.3, name="decoder"), GroupRule("query", lr_ratio=2.0))
    groups = groups_of(build_model(tiny_model()), OptimConfig(lr=1.0, weight_decay=0.1, groups=rules))
    rates = {name: (lr, decay) for name, (lr, decay, _) in groups.items()}
    assert rates == {
        "main": (1.0, 0.1),
        "layer0_decoder": (0.25, 0.3),
        "layer1_decoder": (0.5, 0.3),
        "decoder": (9.0, 0.3),  # the decoder's last norm
        "rule3": (2.0, 0.1),
        "backbone": (0.1, 0.1),
    }


def test_a_ratio_of_zero_freezes_what_the_pattern_finds(tiny_model):
    model = build_model(tiny_model())
    groups = groups_of(model, OptimConfig(groups=(GroupRule("encoder", lr_ratio=0.0),)))
    assert {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad} == {"encoder"}
    assert groups.keys() == {"main", "backbone"}
    with pytest.raises(InputError, match="every parameter is frozen"):
        optimizer_of(model, OptimConfig(groups=(GroupRule("", lr_ratio=0.0),)))


def test_groups_are_logged_and_resumed_by_their_names(tiny_run, tmp_path):
    """Learning rates, and the size of the updates. A changed peak is the configuration's, not the checkpoint's."""
    rules = (GroupRule("class_embed", lr_ratio=3.0, name="classes"), GroupRule("norm", weight_decay=0.0))
    config = tiny_run(optim={"groups": rules, "lr": 1e-3}, train={"update_ratio_steps": 1})
    session = train(config, tmp_path)
    metrics = next(session).metrics
    session.close()
    assert metrics["train/lr_classes"] == pytest.approx(3 * metrics["train/lr"])
    assert metrics["train/lr_rule1"] == metrics["train/lr"]
    names = {"main", "classes", "rule1", "backbone"}
    assert {f"diagnostics/update_ratio_{name}" for name in names} <= metrics.keys()
    slower = tiny_run(optim={"groups": rules, "lr": 1e-4}, train={"update_ratio_steps": 1})
    after = next(train(slower, tmp_path)).metrics
    assert after["train/lr_classes"] < 1.01 * 3e-4


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"pattern": "("}], r"optim\.groups: pattern='\(': no regular expression"),
        ([{"pattern": "a", "lr_ratio": -1.0}], r"optim\.groups: lr_ratio=-1\.0: must not be negative"),
        ([{"pattern": "a", "name": "a/b"}], r"optim\.groups: name='a/b'"),
        ([{"pattern": "a", "name": "x"}, {"pattern": "b", "name": "x"}], "must differ from each other"),
        ([{"pattern": "a", "name": "main"}], "and from main and backbone"),
        ([{"lr_ratio": 1.0}], r"optim\.groups\[0\]\.pattern is missing"),
    ],
)
def test_rules_that_cannot_be_are_named(rules, message):
    with pytest.raises(InputError, match=message):
        from_dict(OptimConfig, {"groups": rules}, "optim")
