"""Image files of every mode, depth and orientation, and damaged ones."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detr.data.image import read_image
from detr.errors import InputError

HEIGHT, WIDTH = 20, 30
# Smooth, so that JPEG keeps it: red rises to the right, green downwards
RGB = np.stack(
    [
        np.tile(np.linspace(0, 250, WIDTH), (HEIGHT, 1)),
        np.tile(np.linspace(0, 250, HEIGHT)[:, None], (1, WIDTH)),
        np.full((HEIGHT, WIDTH), 99.0),
    ],
    axis=-1,
).astype(np.uint8)


def grey(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([values] * 3)).to(torch.uint8)


def assert_close(found: torch.Tensor, expected: torch.Tensor, mean_error: float = 0) -> None:
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape == (3, HEIGHT, WIDTH)
    assert (found.int() - expected.int()).abs().float().mean() <= mean_error


@pytest.mark.parametrize(
    ("mode", "suffix", "mean_error"),
    [
        ("RGB", ".png", 0),
        ("RGB", ".jpg", 6),
        ("RGB", ".webp", 6),
        ("RGBA", ".png", 0),
        ("CMYK", ".jpg", 6),
        ("CMYK", ".tif", 1),
        ("P", ".png", 12),
        ("P", ".gif", 12),
    ],
)
def test_colour_modes(tmp_path, mode, suffix, mean_error):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).convert(mode).save(path)
    assert_close(read_image(path, (HEIGHT, WIDTH)), torch.from_numpy(RGB).permute(2, 0, 1), mean_error)


@pytest.mark.parametrize(("mode", "suffix", "mean_error"), [("L", ".png", 0), ("L", ".jpg", 6), ("LA", ".png", 0)])
def test_grey_becomes_three_equal_channels(tmp_path, mode, suffix, mean_error):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB[..., 0]).convert(mode).save(path)
    assert_close(read_image(path), grey(RGB[..., 0]), mean_error)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_range(tmp_path, suffix):
    """Pillow's own conversion would clip everything above 255 to white."""
    path = tmp_path / f"image{suffix}"
    Image.fromarray((RGB[..., 0].astype(np.uint16) << 8) + 17).save(path)
    assert_close(read_image(path), grey(RGB[..., 0]))


def test_16_bit_colour(tmp_path):
    """Pillow cannot write this one: made by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + (row.astype(np.uint16) << 8).astype(">u2").tobytes() for row in RGB)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0))
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert_close(read_image(path), torch.from_numpy(RGB).permute(2, 0, 1))


def test_palette_with_transparency_warns_nobody(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).quantize(16).save(path, transparency=bytes(range(16)))
    assert read_image(path).shape == (3, HEIGHT, WIDTH)


def rotated_file(tmp_path, orientation: int = 6):
    """A JPEG whose header says that it is to be turned by 90 degrees."""
    path = tmp_path / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif, quality=95)
    return path


def test_exif_rotation_follows_the_annotations(tmp_path):
    """COCO's boxes are drawn on the stored pixels, those of other tools on the upright picture."""
    path = rotated_file(tmp_path)
    stored, upright = read_image(path, (HEIGHT, WIDTH)), read_image(path, (WIDTH, HEIGHT))
    assert_close(stored, torch.from_numpy(RGB).permute(2, 0, 1), mean_error=6)
    assert torch.equal(upright, stored.rot90(-1, (1, 2)))
    assert torch.equal(read_image(path), upright)  # without annotations: as a person sees it


def test_a_size_that_fits_neither_way_is_named(tmp_path):
    with pytest.raises(InputError, match=r"rotated.jpg: the image has 20 x 30 pixels, its annotations say 7 x 5"):
        read_image(rotated_file(tmp_path), (5, 7))


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.png: the image file is missing"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="not a readable image"):
        read_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_files_without_an_image_are_named(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"image.png: not a readable image"):
        read_image(path)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".png"), ("RGB", ".jpg"), ("CMYK", ".jpg"), ("RGBA", ".png")])
def test_half_a_file_is_an_error_not_half_a_picture(tmp_path, mode, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).convert(mode).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match="not a readable image"):
        read_image(path, (HEIGHT, WIDTH))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.sampled_from([("RGB", ".png"), ("RGB", ".jpg"), ("RGBA", ".png"), ("P", ".gif")]), st.data())
def test_damage_is_an_input_error_or_a_picture(tmp_path, kind, data):
    """torchvision's own decoder ends the process on some of these."""
    mode, suffix = kind
    path = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).convert(mode).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        image = read_image(path, (HEIGHT, WIDTH))
    except InputError as error:
        assert path.name in str(error)
    else:
        assert image.shape == (3, HEIGHT, WIDTH)
