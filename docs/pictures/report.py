"""The picture of a report for the README:  python docs/pictures/report.py runs/NAME/report/report.html

Chromium must be in PATH.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main(report: str) -> None:
    """Take the section "AP by arm", in few colours."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1260, "height": 900}, color_scheme="light")
        page.goto(Path(report).resolve().as_uri())
        section = page.locator("section", has=page.get_by_role("heading", name="AP by arm"))
        section.locator(".js-plotly-plot .main-svg").first.wait_for()
        box = section.bounding_box()
        clip = {"x": box["x"] - 20, "y": box["y"] + 2, "width": box["width"] + 40, "height": box["height"]}
        picture = Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True)))
        picture.convert("RGB").quantize(64).save(Path(__file__).with_name("report.png"), optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
