"""Activation checkpointing: activations that are computed again in the backward pass instead of kept for it."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class CheckpointedStack(nn.Module):
    """Base of the stacks whose parts may be checkpointed; `build_model` sets the switch."""

    checkpoint_activations = False

    def call(self, part: nn.Module, *inputs: Any) -> Any:
        """Call a part of the stack; in training with the switch on, keep its inputs alone for the backward pass.

        The recomputation draws the same random numbers, so gradients are those without checkpointing.
        """
        if self.checkpoint_activations and self.training:
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def last_levels(self, x: Tensor, stages: Iterable[nn.Module], num_levels: int) -> list[Tensor]:
        """Call the stages one after the other; return what the last `num_levels` of them give."""
        levels: deque[Tensor] = deque(maxlen=num_levels)  # lets go of finer levels, which are large
        for stage in stages:
            x = self.call(stage, x)
            levels.append(x)
        return list(levels)
