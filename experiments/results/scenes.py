"""The same images in two arms: ground truth and the detections above thresholds, as SVG over the image's own bytes."""

import base64
import html
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THRESHOLDS = (0.75, 0.5, 0.0)
NUM_SCENES = 4
MAX_BYTES = 400_000  # of an image file: larger ones would make the page heavy, and are left out with a word
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True)
class Scene:
    """One image with its boxes. A box is (x, y, width, height in pixels, class, score); score 1 for ground truth."""

    name: str  # file name
    width: int  # pixels
    height: int
    data: str  # the image as a data URL; "" where it could not be read
    note: str  # why it could not
    truth: tuple[tuple[float, float, float, float, str, float], ...]
    detections: Mapping[str, tuple[tuple[float, float, float, float, str, float], ...]]  # arm -> boxes


def scenes(annotations: Path, predictions: Mapping[str, Path], folder: Path | None) -> list[Scene]:
    """The first images that have objects, by id, with what each arm's run found there.

    predictions:  arm -> COCO results file of one run
    folder:       of the validation images; None where it is not known
    """
    content = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    truth = _by_image(content["annotations"], names)
    chosen = [image for image in sorted(content["images"], key=lambda i: i["id"]) if truth.get(image["id"])][
        :NUM_SCENES
    ]
    ids = {image["id"] for image in chosen}
    found = {
        arm: _by_image([d for d in json.loads(path.read_text()) if d["image_id"] in ids], names)
        for arm, path in predictions.items()
    }
    made = []
    for image in chosen:
        data, note = embed(folder, image["file_name"])
        boxes = {arm: tuple(rows.get(image["id"], ())) for arm, rows in found.items()}
        shape = int(image["width"]), int(image["height"])
        made.append(Scene(str(image["file_name"]), *shape, data, note, tuple(truth[image["id"]]), boxes))
    return made


def embed(folder: Path | None, file_name: str) -> tuple[str, str]:
    """The image file as a data URL and "", or "" and the reason; nothing outside the folder is read."""
    if folder is None:
        return "", "the folder of the images is not recorded"
    path, kind = (folder / file_name).resolve(), TYPES.get(Path(file_name).suffix.lower())
    if not path.is_relative_to(folder.resolve()):
        return "", "its path leaves the folder of the images"
    if not path.is_file():
        return "", "the image file is missing"
    if kind is None or path.stat().st_size > MAX_BYTES:
        return "", "the image is too large to embed, or no PNG, JPEG, WebP or GIF"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", ""


def svg(scene: Scene, number: int, boxes: Sequence[tuple], classes: Sequence[str], first: bool) -> str:
    """One picture of the scene with these boxes. The first one of a scene embeds the image, the others refer to it."""
    shown = ""
    if scene.data:
        image = f'<image id="scene-{number}" href="{scene.data}" width="{scene.width}" height="{scene.height}"/>'
        shown = image if first else f'<use href="#scene-{number}"/>'
    size = max(scene.width, scene.height)
    parts = [_box(box, classes, size) for box in sorted(boxes, key=lambda box: box[5])]
    return f'<svg viewBox="0 0 {scene.width} {scene.height}" role="img">{shown}{"".join(parts)}</svg>'


def above(boxes: Sequence[tuple], threshold: float) -> list[tuple]:
    """Boxes with a score above the threshold."""
    return [box for box in boxes if box[5] > threshold]


def _box(box: tuple, classes: Sequence[str], size: int) -> str:
    x, y, width, height, name, score = box
    tone = PALETTE[classes.index(name) % len(PALETTE)] if name in classes else "#ffffff"
    text = f"{html.escape(name)} {score:.2f}"
    # Faint boxes stand for weak detections; without a threshold every query shows.
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="none"'
    faint = f'stroke-opacity="{0.15 + 0.85 * score:.2f}"'
    return (
        f'<rect {place} stroke="#000" stroke-width="{size / 70:.2f}" {faint}/>'
        f'<rect {place} stroke="{tone}" stroke-width="{size / 130:.2f}" {faint}><title>{text}</title></rect>'
    )


def _by_image(rows: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> dict[int, list[tuple]]:
    boxes = defaultdict(list)
    for row in rows:
        name = str(names.get(row["category_id"], row["category_id"]))
        boxes[row["image_id"]].append((*map(float, row["bbox"]), name, float(row.get("score", 1.0))))
    return boxes
