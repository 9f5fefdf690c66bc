"""The number formats of a training step, and what each of them needs. Parameters, matching and losses are float32."""

import torch
from torch.amp import GradScaler

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Within it the products of the forward pass are computed in the precision's short format, if it has one."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def grad_scaler(device: torch.device, precision: str) -> GradScaler:
    """Multiplies the loss so that small gradients do not become 0 in float16; passes all through in other formats.

    Where the factor makes a gradient infinite the step is left out, and the factor halved.
    """
    return GradScaler(device.type, enabled=precision == "float16")


def set_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of float32 products to TF32's 10 bits, or not; for the whole process.

    Not is no matter of course: torch's own default for convolutions is that they do.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on the device draws from. torch.manual_seed would seed those of all devices,
    which takes a noticeable part of a small model's step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        getattr(torch, device.type).manual_seed(seed)
