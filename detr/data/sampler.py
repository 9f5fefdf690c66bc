"""Endless, restartable order of the training images, and its micro-batches."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

from detr.distributed import shard
from detr.seeds import derived_seed

Key = tuple[int, int]  # epoch and image index
GROUPED = 32  # micro-batches among which images are exchanged


def chunks(keys: list[Key], size: int) -> list[list[Key]]:
    """Cut the keys into lists of `size`; the last may be shorter."""
    return [keys[i : i + size] for i in range(0, len(keys), size)]


class StreamSampler(Sampler[list[Key]]):
    """Micro-batches of one endless stream of shuffled epochs, from any optimiser step on.

    Position p of the stream holds image `permutation(seed, epoch)[p % N]` of epoch `p // N`. So every image is seen
    equally often, an effective batch may be larger than the data set, and the order needs no state to resume.
    Each rank takes its shard of the micro-batches of every step.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        first_step: int,
        last_step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images, self.batch_size, self.accumulate, self.seed = num_images, batch_size, accumulate, seed
        self.steps, self.rank, self.world_size = range(first_step, last_step), rank, world_size
        self._order: tuple[int, list[int]] = (-1, [])  # an epoch and its permutation

    def __len__(self) -> int:
        return len(self.steps) * len(shard(range(self.accumulate), self.rank, self.world_size))

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield lists of (epoch, image index), a micro-batch each."""
        for step in self.steps:
            yield from shard(self.micro_batches(step), self.rank, self.world_size)

    def micro_batches(self, step: int) -> list[list[Key]]:
        """List a step's micro-batches, those of all ranks."""
        return chunks(self._keys(step, 1), self.batch_size)

    def _keys(self, step: int, num_steps: int) -> list[Key]:
        size, keys = self.batch_size * self.accumulate, []
        for position in range(step * size, (step + num_steps) * size):
            epoch, offset = divmod(position, self.num_images)
            if self._order[0] != epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self._order = (epoch, torch.randperm(self.num_images, generator=generator).tolist())
            keys.append((epoch, self._order[1][offset]))
        return keys


class GroupingSampler(StreamSampler):
    """The stream's images in micro-batches of like heights and widths, which need little padding.

    Images are exchanged within windows of as few whole steps as have GROUPED micro-batches; so with that many in a step
    a step has the same images as without grouping. The micro-batches of a window are shuffled.
    """

    def __init__(self, shape: Callable[[Key], tuple[int, int]], *arguments: Any) -> None:
        """`shape` gives height and width of the augmented image; the other arguments are StreamSampler's."""
        super().__init__(*arguments)
        self.shape = shape
        self.window_steps = -(-GROUPED // self.accumulate)
        self._window: tuple[int, list[list[Key]]] = (-1, [])

    def micro_batches(self, step: int) -> list[list[Key]]:
        """List a step's micro-batches, those of all ranks."""
        window, offset = divmod(step, self.window_steps)
        if self._window[0] != window:
            self._window = (window, self._group(window))
        return self._window[1][offset * self.accumulate : (offset + 1) * self.accumulate]

    def _group(self, window: int) -> list[list[Key]]:
        keys = self._keys(window * self.window_steps, self.window_steps)
        groups = chunks(sorted(keys, key=self._likeness), self.batch_size)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, window))
        return [groups[i] for i in torch.randperm(len(groups), generator=generator)]

    def _likeness(self, key: Key) -> tuple[bool, int, int]:
        height, width = self.shape(key)
        return height > width, max(height, width), min(height, width)
