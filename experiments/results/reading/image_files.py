"""Image files of a data set as data URLs, which a page can hold in itself."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# formats of Pillow, and those of them that a browser shows as they are
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
ROTATED = 0x0112  # EXIF's tag of the orientation; 1 is upright
MAX_BYTES = 400_000  # of a file that is taken as it is
QUALITY = 85  # of JPEG, where the picture is made anew


def embed(folder: Path | None, file_name: str, size: tuple[int, int], max_side: int) -> tuple[str, str]:
    """The image as a data URL and "", or "" and the reason; nothing outside the folder is read.

    folder:    of the images; None where it is not known
    size:      (width, height) that the annotations say. A rotation by EXIF is applied where only that fits them, as in
               training.
    max_side:  pixels; a larger picture is reduced
    """
    if folder is None:
        return "", "the folder of the images is not recorded"
    path = folder / file_name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return "", "its path leaves the folder of the images"
        if not path.is_file():
            return "", "the image file is missing"
        return _embed(path, size, max_side)
    except (OSError, RuntimeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return "", f"the image file cannot be read ({type(error).__name__})"


def _embed(path: Path, size: tuple[int, int], max_side: int) -> tuple[str, str]:
    with Image.open(path, formats=FORMATS) as opened:
        kind, rotated = KINDS.get(opened.format or ""), opened.getexif().get(ROTATED, 1) != 1
        fits = max(opened.size) <= max_side and path.stat().st_size <= MAX_BYTES
        picture: Image.Image = opened
        if picture.size != tuple(size):
            picture = ImageOps.exif_transpose(opened)
        if picture.size != tuple(size):
            width, height = opened.size
            return "", f"the image has {width} x {height} pixels, its annotations say {size[0]} x {size[1]}"
        if kind and fits and not rotated:
            content = path.read_bytes()
        else:
            kind, content = "image/jpeg", _reduced(picture, max_side)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}", ""


def _reduced(picture: Image.Image, max_side: int) -> bytes:
    """The picture as JPEG with sides of at most `max_side`."""
    if picture.mode.startswith("I"):  # 16 bit: keep the high byte; Pillow's own conversion clips at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    picture.draft("RGB", (max_side, max_side))  # JPEG decodes to a fraction, several times as fast
    picture = picture.convert("RGB")
    picture.thumbnail((max_side, max_side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
