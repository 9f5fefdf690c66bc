"""The pictures of docs/model.md are drawn by the code that they explain, and are all used."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs/pictures"
SCRIPT = runpy.run_path(str(FOLDER / "draw.py"), run_name="pictures")


@pytest.mark.parametrize("draw", SCRIPT["PICTURES"], ids=lambda draw: draw.__name__)
def test_every_picture_can_be_drawn_and_is_shown(draw, tmp_path):
    figure = draw()
    figure.savefig(tmp_path / "picture.png")
    SCRIPT["plt"].close(figure)
    assert f"(pictures/{draw.__name__}.png)" in (FOLDER.parent / "model.md").read_text()
    assert (FOLDER / f"{draw.__name__}.png").stat().st_size < 150_000
