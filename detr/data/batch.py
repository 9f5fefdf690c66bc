"""Batches of padded samples."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detr.errors import InputError


class Batch(NamedTuple):
    """Images of one padded size and their targets."""

    images: Tensor  # (B, 3, H, W) uint8, 0 on padding; `normalize` makes the model's input of them
    padding_mask: Tensor  # (B, H, W), True on padding
    targets: list[dict[str, Any]]

    def to(self, device: torch.device) -> "Batch":
        """Move images, mask, and the targets' labels and boxes to the device; from pinned memory without waiting."""
        images, mask = (x.to(device, non_blocking=True) for x in (self.images, self.padding_mask))
        targets = [{k: t[k].to(device, non_blocking=True) for k in ("labels", "boxes")} for t in self.targets]
        return Batch(images, mask, targets)


def pad_images(images: list[Tensor], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Pad right and bottom with 0 to the largest height and width, rounded up to a multiple.

    images:  B tensors (3, h, w)
    returns  images (B, 3, H, W) and padding_mask (B, H, W), True on padding
    """
    height, width = (-(-max(x.shape[i] for x in images) // multiple) * multiple for i in (1, 2))
    # channels last: a pixel's three values side by side, which convolutions read fastest
    padded = images[0].new_zeros(len(images), height, width, images[0].shape[0]).movedim(-1, 1)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=padded.device)
    for i, image in enumerate(images):
        padded[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = False
    return padded, mask


def collate(samples: list[tuple[Tensor, dict]] | InputError, multiple: int = 1) -> Batch | InputError:
    """Pad a list of samples to a batch, or pass an error of the data set through."""
    if isinstance(samples, InputError):
        return samples
    return pad_samples(samples, multiple)


def pad_samples(samples: list[tuple[Tensor, dict]], multiple: int = 1) -> Batch:
    """Pad a list of samples to a batch."""
    images, targets = zip(*samples, strict=True)
    return Batch(*pad_images(list(images), multiple), list(targets))


def batches(loader: DataLoader) -> Iterator[Batch]:
    """Iterate over the loader's batches; an error of the data set is raised here, in the main process."""
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
