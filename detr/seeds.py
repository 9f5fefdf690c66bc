"""Random numbers that follow from what is computed, not from what was computed before it."""

import numpy as np
import torch


def derived_seed(*parts: int) -> int:
    """Derive a seed for torch in [0, 2**63); different parts, all 0 or more, give unrelated random numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on the device draws from. torch.manual_seed would seed those of all devices,
    which takes a noticeable part of a small model's step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        getattr(torch, device.type).manual_seed(seed)
