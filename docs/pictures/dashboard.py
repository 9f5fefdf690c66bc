"""Pictures of the dashboard for the README:  python docs/pictures/dashboard.py ["lr_clip 8bd5f9c6"]

The dashboard must be running at its default address (make dashboard), and chromium be in PATH. The newest ablation is
shown, or the one that is given as the side bar names it.
"""

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import quote_plus

from PIL import Image
from playwright.sync_api import sync_playwright

ADDRESS = "http://127.0.0.1:8501"
FOLDER = Path(__file__).parent
PICTURES = {
    "ablation": "?",
    "detections": "detections?threshold=0.5&order=disagreement",
    "thresholds": "thresholds?",
    "why": "why?topic=Training+signals",
}
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
SIZE = {"width": 1280, "height": 1200}


def main(ablation: str = "") -> None:
    """Take every picture, as WebP."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.set_default_timeout(120_000)
        for name, path in PICTURES.items():
            chosen = f"&ablation={quote_plus(ablation)}" if ablation else ""
            page.goto(f"{ADDRESS}/{path}{chosen}")
            page.locator("[data-testid=stDataFrame], .js-plotly-plot").first.wait_for()
            page.locator(SETTLED).wait_for()
            page.wait_for_load_state("networkidle")  # the parts of plotly
            picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
            picture.save(FOLDER / f"dashboard_{name}.webp", quality=80, method=6)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
