"""Devices that a test can be asked to run on."""

import pytest
import torch


def needs_gpus(count: int) -> list[pytest.MarkDecorator]:
    """Marks of a test that takes so many NVIDIA GPUs."""
    found = torch.cuda.device_count()
    return [
        pytest.mark.gpu,
        pytest.mark.skipif(found < count, reason=f"takes {count} NVIDIA GPUs, and {found} are here"),
    ]


CUDA = pytest.param("cuda", marks=needs_gpus(1))
DEVICES = ["cpu", CUDA]
