"""Augmentation (facebookresearch/detr, datasets/coco.py) on torchvision.transforms.v2, and normalisation."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from detr.config import DataConfig
from detr.extensions import call

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_transform(config: DataConfig, train: bool) -> v2.Transform:
    """Build the way from a uint8 image and pixel boxes to a uint8 image and boxes as cxcywh in 0..1.

    The batch is normalised later, where the model is.
    """
    if not train:
        spatial: Any = ResizeShortestSide([config.image_size], config.max_size)
    elif config.transform:
        own = call("data.transform", config.transform, config)
        spatial = v2.Compose([own, ClampBoxes()])
    else:
        spatial = augmentation(config)
    return v2.Compose([spatial, NormalizeBoxes()])


def augmentation(config: DataConfig) -> v2.Transform:
    """Build data.augmentation, from a uint8 image and pixel boxes to the same at the sizes of training.

    At image_size=800, max_size=1333 "official" is the published augmentation; other sizes scale all its lengths alike.
    """

    def scaled(*lengths: int) -> list[int]:
        return [max(1, round(length * config.image_size / 800)) for length in lengths]

    resize = ResizeShortestSide([config.image_size], config.max_size)
    if config.augmentation == "none":
        return resize
    if config.augmentation == "light":
        crop = v2.RandomApply([RandomSizeCrop(*scaled(600, 800))], p=0.5)
        return v2.Compose([v2.RandomHorizontalFlip(), resize, crop, resize])
    multi_scale = ResizeShortestSide(scaled(*range(480, 801, 32)), config.max_size)
    # The official code sets no bound here: an image of 1 x N pixels would become one of 600 x 600 N.
    before_crop = ResizeShortestSide(scaled(400, 500, 600), max_size=16 * config.image_size)
    cropped = v2.Compose([before_crop, RandomSizeCrop(*scaled(384, 600)), multi_scale])
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice([multi_scale, cropped])])


def normalize(images: Tensor, padding_mask: Tensor) -> Tensor:
    """Convert uint8 images to the model's input: float32 of ImageNet's mean 0 and deviation 1; padding stays 0.

    Until then an image takes a quarter of the memory on its way through augmentation, processes and buses.

    images:        (B, 3, H, W), 0 on padding
    padding_mask:  (B, H, W), True on padding, which is right of the image and below it
    """
    width = images.shape[-1]
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]).to(images.device, non_blocking=True)  # nobody waits for it
    scale, offset = (1 / (255 * std)).repeat(width), (-mean / std).repeat(width)
    valid = (~padding_mask).float()
    row, column = valid[:, :, :1], valid[:, :1].repeat_interleave(3, dim=2)  # (B, H, 1), (B, 1, W * 3)
    pixels = images.movedim(1, -1).flatten(2).float()  # (B, H, W * 3): a loop over three colours would be the inner one
    pixels.mul_(scale).addcmul_(row, column * offset)
    return pixels.unflatten(2, (width, 3)).movedim(-1, 1)


class ResizeShortestSide(v2.Transform):
    """Resize the shorter side to one of `sizes`, the longer to at most `max_size`; antialiased bilinear.

    torchvision's RandomShortestSize rounds through a ratio and can miss the asked length by a pixel.
    """

    def __init__(self, sizes: list[int], max_size: int | None = None) -> None:
        super().__init__()
        self.sizes, self.max_size = sizes, max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size: {"size": (height, width)}."""
        height, width = v2.query_size(flat_inputs)
        size = self.sizes[int(torch.randint(len(self.sizes), ()))]
        return {"size": target_size(height, width, size, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image or its boxes."""
        return self._call_kernel(TF.resize, inpt, list(params["size"]), antialias=True)


def target_size(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Compute (height, width) with the shorter side at `size`, or the longer at `max_size` if that is less."""
    short, long = min(height, width), max(height, width)
    if max_size is not None and long / short * size > max_size:
        size = max(1, round(max_size * short / long))
    other = int(size * long / short)
    if max_size is not None:
        other = min(other, max_size)
    return (size, other) if height <= width else (other, size)


class RandomSizeCrop(v2.Transform):
    """Crop a window whose width and height are drawn apart from [min_size, max_size]; boxes outside are dropped."""

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Crop the image and its target."""
        full_height, full_width = image.shape[-2:]
        width, height = self._draw(full_width), self._draw(full_height)
        top = int(torch.randint(full_height - height + 1, ()))
        left = int(torch.randint(full_width - width + 1, ()))
        cropped = {**target, "boxes": TF.crop(target["boxes"], top, left, height, width)}
        return ClampBoxes()(TF.crop(image, top, left, height, width), cropped)

    def _draw(self, length: int) -> int:
        low, high = min(self.min_size, length), min(self.max_size, length)
        return int(torch.randint(low, high + 1, ()))


class ClampBoxes(v2.Transform):
    """Clamp boxes to the image, and drop those without area in it."""

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Clamp the boxes of the target."""
        boxes = TF.clamp_bounding_boxes(target["boxes"])
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return image, {**target, "boxes": tv_tensors.wrap(boxes[keep], like=boxes), "labels": target["labels"][keep]}


class NormalizeBoxes(v2.Transform):
    """Convert pixel xyxy to cxcywh in units of the image's width and height, as plain tensors."""

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Convert the boxes of the target."""
        height, width = image.shape[-2:]
        boxes = TF.convert_bounding_box_format(target["boxes"], new_format="CXCYWH").as_subclass(Tensor)
        return image, {**target, "boxes": boxes / torch.tensor([width, height, width, height])}
