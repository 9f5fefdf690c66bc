"""Image files to RGB tensors, whatever their mode, depth and orientation."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from detr.errors import InputError


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Decode to uint8 RGB (3, H, W).

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
    except (RuntimeError, OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: the image cannot be decoded ({reason}); replace the file or drop its record") from None
    if size is not None and tuple(image.shape[-2:]) != tuple(size):
        raise InputError(
            f"{path}: the image is {image.shape[2]} x {image.shape[1]} pixels, its annotations say {size[1]} x {size[0]}"
        )
    return image


def _decode(path: Path, upright: bool) -> Tensor:
    """The native decoder for 8-bit grey and RGB files; Pillow for the rest."""
    with Image.open(path) as header:
        if header.format in ("JPEG", "PNG") and header.mode in ("RGB", "L"):
            return decode_image(read_file(str(path)), ImageReadMode.RGB, apply_exif_orientation=upright)
        picture = ImageOps.exif_transpose(header) if upright else header
        if picture.mode.startswith("I"):  # 16 bit: keep the high byte; Pillow's own conversion clips at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
        pixels = np.array(picture.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
