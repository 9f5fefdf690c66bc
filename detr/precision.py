"""Number formats of a training step. Parameters, matching and losses are float32 in all of them."""

import torch
from torch.amp import GradScaler

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute the products of the forward pass in the precision's short format, if it has one."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def grad_scaler(device: torch.device, precision: str) -> GradScaler:
    """Scale the loss so that small gradients do not become 0 in float16; pass all through in other formats.

    If the factor makes a gradient infinite, the step is left out and the factor halved.
    """
    return GradScaler(device.type, enabled=precision == "float16")


def set_tf32(allowed: bool) -> None:
    """Let GPUs round the factors of float32 products to TF32's 10 bits, or not; for the whole process.

    Has to be said either way: torch's own default is yes for convolutions and no for matrices.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
