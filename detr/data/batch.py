"""Samples to batches, and the endless, restartable order in which training sees them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from detr.distributed import Peers
from detr.errors import InputError


class Batch(NamedTuple):
    """What the model and the criterion take."""

    images: Tensor  # (B, 3, H, W), normalised, 0 on padding
    padding_mask: Tensor  # (B, H, W), True on padding
    targets: list[dict[str, Any]]

    def to(self, device: torch.device) -> "Batch":
        """Copy to the device; from pinned memory without waiting."""
        images, mask = (x.to(device, non_blocking=True) for x in (self.images, self.padding_mask))
        targets = [{k: t[k].to(device, non_blocking=True) for k in ("labels", "boxes")} for t in self.targets]
        return Batch(images, mask, targets)


def pad_images(images: list[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Pad right and bottom with 0 to the largest height and width, rounded up to a multiple.

    images:  B tensors (3, h, w)
    returns  images (B, 3, H, W) and padding_mask (B, H, W), True on padding
    """
    height, width = (-(-max(x.shape[i] for x in images) // multiple) * multiple for i in (1, 2))
    padded = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
    for i, image in enumerate(images):
        padded[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = False
    return padded, mask


def collate(samples: list[tuple[Tensor, dict]] | InputError, multiple: int = 1) -> Batch | InputError:
    """A list of samples to a batch; an error of the data set passes through."""
    if isinstance(samples, InputError):
        return samples
    images, targets = zip(*samples, strict=True)
    return Batch(*pad_images(list(images), multiple), list(targets))


def batches(loader: DataLoader) -> Iterator[Batch]:
    """The loader's batches; an error of the data set is raised here, in the main process."""
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """Micro-batches of one endless stream of shuffled epochs, from any optimiser step on.

    Position p of the stream holds image `permutation(seed, epoch)[p % N]` of epoch `p // N`. So every image is seen
    equally often, an effective batch may be larger than the data set, and the order needs no state to resume.
    Of several processes each takes its share of the micro-batches of every step.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        first_step: int,
        last_step: int,
        peers: Peers | None = None,
    ) -> None:
        self.num_images, self.batch_size, self.accumulate, self.seed = num_images, batch_size, accumulate, seed
        self.steps, self.own = range(first_step, last_step), (peers or Peers()).share(range(accumulate))

    def __len__(self) -> int:
        return len(self.steps) * len(self.own)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (epoch, image index)."""
        known: tuple[int, list[int]] = (-1, [])
        for micro_batch in (step * self.accumulate + i for step in self.steps for i in self.own):
            keys = []
            for position in range(micro_batch * self.batch_size, (micro_batch + 1) * self.batch_size):
                epoch, offset = divmod(position, self.num_images)
                if known[0] != epoch:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    known = (epoch, torch.randperm(self.num_images, generator=generator).tolist())
                keys.append((epoch, known[1][offset]))
            yield keys
