"""Image files to RGB tensors, whatever their mode, depth and orientation."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detr.errors import InputError


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode to uint8 RGB (3, H, W), a pixel's colours side by side in memory.

    size:  (height, width) of the annotations. The EXIF rotation is applied exactly where the file fits them only when
           rotated: COCO's boxes are drawn on the stored pixels, those of some tools on the upright picture. Without
           annotations (None) the picture is put upright.

    InputError names a file that is missing, unreadable or of another size.
    """
    try:
        image = _decode(path, upright=size is None)
        if size is not None and tuple(image.shape[-2:]) != tuple(size):
            image = _decode(path, upright=True)
    except FileNotFoundError:
        raise InputError(f"{path}: the image file is missing") from None
    except (RuntimeError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason}); replace the file or drop its record") from None
    if size is not None and tuple(image.shape[-2:]) != tuple(size):
        found = f"{image.shape[2]} x {image.shape[1]}"
        raise InputError(f"{path}: the image has {found} pixels, its annotations say {size[1]} x {size[0]}")
    return image


def _decode(path: Path, upright: bool) -> Tensor:
    """Pillow decodes: torchvision's decoders are no faster, deprecated, and a damaged PNG crashes them."""
    with Image.open(path) as header:
        picture = ImageOps.exif_transpose(header) if upright else header
        if picture.mode.startswith("I"):  # 16 bit: keep the high byte; Pillow's own conversion clips at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
        if "transparency" in picture.info:  # a palette's, which is not to be dropped in one step
            picture = picture.convert("RGBA")
        pixels = np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # resizing is faster in this order
