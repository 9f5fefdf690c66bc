"""Images as data URLs: of their folder alone, upright as their annotations, reduced where they are large."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from experiments.results.reading.image_files import ROTATED, embed

PIXELS = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
SIZE = (40, 30)


def decoded(url: str) -> Image.Image:
    kind, content = url.removeprefix("data:").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"image/{image.format.lower()}"
    return image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val").mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "val/1.png")
    Image.fromarray(PIXELS).save(tmp_path / "secret.png")
    return tmp_path / "val"


def test_a_small_file_is_taken_as_it_is(folder):
    url, note = embed(folder, "1.png", SIZE, 640)
    assert not note and base64.b64decode(url.split(",")[1]) == (folder / "1.png").read_bytes()


def test_nothing_outside_of_the_folder_is_read(folder):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    for name in ("../secret.png", str(folder.parent / "secret.png"), "link.png"):
        assert embed(folder, name, SIZE, 640) == ("", "its path leaves the folder of the images")


def test_what_cannot_be_shown_has_a_reason(folder):
    (folder / "notes.png").write_text("<svg onload=alert(1)>")
    (folder / "half.png").write_bytes((folder / "1.png").read_bytes()[:60])
    assert embed(None, "1.png", SIZE, 640) == ("", "the folder of the images is not recorded")
    assert embed(folder, "2.png", SIZE, 640) == ("", "the image file is missing")
    assert embed(folder, "", SIZE, 640) == ("", "the image file is missing")
    for name in ("notes.png", "half.png", "nul\0.png"):
        assert embed(folder, name, (41, 30) if name == "half.png" else SIZE, 640)[1].startswith("the image file cannot")
    assert embed(folder, "1.png", (30, 30), 640)[1] == "the image has 40 x 30 pixels, its annotations say 30 x 30"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_a_large_image_is_reduced(folder, mode):
    pixels = Image.fromarray(np.full((30, 40), 200 << 8, np.uint16)) if mode == "I;16" else Image.fromarray(PIXELS)
    (pixels if mode == "I;16" else pixels.convert(mode)).save(folder / "2.png")
    image = decoded(embed(folder, "2.png", SIZE, 20)[0])
    assert image.size == (20, 15)
    assert mode != "I;16" or abs(int(np.asarray(image)[0, 0, 0]) - 200) < 3


def test_a_rotation_is_applied_where_only_that_fits_the_annotations(folder):
    tag = Image.Exif()
    tag[ROTATED] = 6  # to be turned clockwise by the viewer
    picture = Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[None] * 6, 30, axis=0))  # brighter to the right
    picture.save(folder / "turned.png", exif=tag)
    stored, upright = (
        np.asarray(decoded(embed(folder, "turned.png", s, 640)[0]).convert("L")) for s in (SIZE, SIZE[::-1])
    )
    assert stored.shape == (30, 40) and stored[0, -1] > stored[0, 0] + 100
    assert upright.shape == (40, 30) and upright[-1, 0] > upright[0, 0] + 100


def test_links_that_lead_round_in_a_circle_are_told(tmp_path):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert embed(tmp_path, "a.png", (4, 4), 10)[0] == ""
