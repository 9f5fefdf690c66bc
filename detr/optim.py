"""Optimiser, parameter groups by rule, and clipping (facebookresearch/detr, main.py).

Official are two groups: the backbone at a tenth of the learning rate, and the rest. Weight decay is on everything.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from detr.config import GroupRule, OptimConfig
from detr.errors import InputError
from detr.extensions import call

MAIN = "main"  # the group of the parameters that no rule matches
BACKBONE = r"^backbone\."
# Learned positions share the backbone's learning rate in the official code. A rate of 0 stops them, but their gradient
# stays in the clipped norm.
NEVER_FROZEN = "backbone.1."


def build_optimizer(model: nn.Module, lr: float, backbone_lr: float, weight_decay: float) -> AdamW:
    """Build the official AdamW with the groups "main" and "backbone".

    `backbone_lr` of 0 freezes the backbone network: its parameters get no gradient and leave the clipped norm.
    """
    rule = GroupRule(BACKBONE, lr_ratio=backbone_lr / lr, name="backbone")
    return _adamw(parameter_groups(model, [rule], lr, weight_decay))


def optimizer_of(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Build the configured optimiser: AdamW, or the user's own on the same groups."""
    rules = [*config.groups, GroupRule(BACKBONE, lr_ratio=config.backbone_lr_ratio, name="backbone")]
    groups = parameter_groups(model, rules, config.lr, config.weight_decay)
    if config.target is None:
        return _adamw(groups)
    optimizer: Optimizer = call("optim.target", config.target, groups, **(config.options or {}))
    for group in optimizer.param_groups:  # of an optimiser that made its own
        group.setdefault("name", MAIN)
        group.setdefault("initial_lr", group["lr"])
    train_mode(optimizer)
    return optimizer


def _adamw(groups: list[dict[str, Any]]) -> AdamW:
    return AdamW(groups, fused=True)  # one kernel for all parameters


def parameter_groups(
    model: nn.Module, rules: Sequence[GroupRule], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort the parameters that are trained into groups of one learning rate and weight decay, and freeze the others.

    A group has name, params, lr, initial_lr (the peak, as torch's schedulers call it) and weight_decay. It is named
    after the rules that shaped it, joined by "_"; "main" is the group of the parameters that no rule matches.
    """
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        labels, lr_ratio, decay = _matched(name, rules)
        if lr_ratio == 0 and not name.startswith(NEVER_FROZEN):
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            key = labels, lr * lr_ratio, weight_decay if decay is None else decay
            groups.setdefault(key, []).append(parameter)
    if not groups:
        raise InputError("optim: every parameter is frozen (lr ratios of 0); leave one to train")
    return [
        {"name": name, "params": params, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (name, rate, decay), params in groups.items()
    ]


def _matched(name: str, rules: Sequence[GroupRule]) -> tuple[str, float, float | None]:
    """Group name, lr ratio and weight decay of a parameter."""
    stated: dict[str, float] = {}
    labels = []
    for i, rule in enumerate(rules):
        if not re.search(rule.pattern, name):
            continue
        values = {"lr_ratio": rule.lr_ratio, "weight_decay": rule.weight_decay}
        new = {key: value for key, value in values.items() if value is not None and key not in stated}
        if new:
            stated |= new
            labels.append(rule.name or f"rule{i}")
    return "_".join(labels) or MAIN, stated.get("lr_ratio", 1.0), stated.get("weight_decay")


def set_lr(optimizer: Optimizer, factor: float) -> None:
    """Set every group to `factor` times its peak; a pure function of the step, so that a resumed run needs no state."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Restore the optimiser's state; peaks stay those of the configuration."""
    peaks = [group["initial_lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["initial_lr"] = peak


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Learning rates by metric: train/lr of the main group, train/lr_<name> of the others."""
    return {
        "train/lr" if group["name"] == MAIN else f"train/lr_{group['name']}": group["lr"]
        for group in optimizer.param_groups
    }


def train_mode(optimizer: Optimizer) -> None:
    """Switch a schedule-free optimiser to the weights that it trains; others have one kind of weights."""
    getattr(optimizer, "train", lambda: None)()


def eval_mode(optimizer: Optimizer) -> None:
    """Switch a schedule-free optimiser to the weights that it averages, which are to be evaluated."""
    getattr(optimizer, "eval", lambda: None)()


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> Tensor:
    """Clip the gradient to `clip_norm` over all parameters; 0 only measures. Returns its norm before that, a scalar on
    the device, so that nobody waits for it here.
    """
    parameters = [p for p in parameters if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, clip_norm or float("inf"))
