"""AdamW with a group for the backbone (facebookresearch/detr, main.py)."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import AdamW

from detr.config import OptimConfig, ScheduleConfig
from detr.schedule import lr_factor


def build_optimizer(model: nn.Module, lr: float, backbone_lr: float, weight_decay: float) -> AdamW:
    """Two groups, named "main" and "backbone"; weight decay on every parameter, norms and biases included.

    `backbone_lr` of 0 freezes the backbone network: its parameters get no gradient and leave the clipped norm.
    Learned positions belong to the backbone's group, as in the official code, but are not frozen with it.
    """
    groups: dict[str, list[nn.Parameter]] = {"main": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.0.") and backbone_lr == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            groups["backbone" if name.startswith("backbone.") else "main"].append(parameter)
    return AdamW(
        [
            {"name": "main", "params": groups["main"], "lr": lr},
            {"name": "backbone", "params": groups["backbone"], "lr": backbone_lr},
        ],
        weight_decay=weight_decay,
        fused=True,  # one kernel for all parameters
    )


def set_lr(optimizer: AdamW, optim: OptimConfig, schedule: ScheduleConfig, progress: float) -> None:
    """Set both groups for the fraction `progress` of the run; a pure function, so that a resumed run needs no state."""
    factor = lr_factor(schedule, progress)
    for group in optimizer.param_groups:
        ratio = optim.backbone_lr_ratio if group["name"] == "backbone" else 1.0
        group["lr"] = optim.lr * ratio * factor


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> Tensor:
    """Clip the gradient to `clip_norm` over all parameters; 0 only measures. Returns its norm before that, a scalar on
    the device, so that nobody waits for it here.
    """
    parameters = [p for p in parameters if p.grad is not None]
    return nn.utils.clip_grad_norm_(parameters, clip_norm or float("inf"))
