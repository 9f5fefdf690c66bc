"""A contact sheet of an audited data set: sound boxes in the colour of their class, faulty ones with their fault."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from detr.data.image import read_image
from detr.doctor.checks import Audit
from detr.doctor.records import Records
from detr.errors import InputError
from detr.inference.draw import colour, draw_boxes

TILE = 320  # pixels of a tile's longer side
COLUMNS = 4
LINE = 18  # pixels of a line of text
FAULT = "#FF0000"
SHOWN_FAULTS = ("no-extent", "outside", "over-border", "duplicate-box", "area-too-large", "not-finite")


def draw_sheet(audit: Audit, path: Path, num_images: int = 12) -> int:
    """Write the sheet as PNG; half of its tiles at most go to images with faulty boxes. Returns the number of tiles."""
    faults: dict[tuple[str, int | str], str] = {}
    for finding in audit.findings:
        if finding.check in SHOWN_FAULTS and finding.of == "annotations":
            faults |= {(finding.split, id_): finding.check for id_ in finding.ids}
    tiles = []
    for split, row in _choose(audit, faults, num_images):
        image = _read(audit.records[split], row)
        if image is not None:
            tiles.append(_tile(audit, split, row, image, faults))
    legend = list(_classes(audit).values())[:24] + [("faulty", FAULT)] * bool(faults)
    sheet = _grid(tiles, legend)
    sheet.save(path, format="PNG")
    return len(tiles)


def _classes(audit: Audit) -> dict[int, tuple[str, str]]:
    """Name and colour by category id."""
    names: dict[int, str] = {}
    for records in audit.records.values():
        names = records.names | names
    return {id_: (names[id_], colour(i)) for i, id_ in enumerate(sorted(names))}


def _choose(audit: Audit, faults: dict[tuple[str, int | str], str], num_images: int) -> list[tuple[str, int]]:
    """(split, row of the image): first those with faults, then one of each class, then evenly over each split."""
    faulty: list[tuple[str, int]] = []
    for split, objects in audit.objects.items():
        rows = [row for row, label in zip(objects.images, objects.labels, strict=True) if (split, label) in faults]
        faulty += [(split, row) for row in dict.fromkeys(rows) if row >= 0]
    chosen = faulty[: num_images // 2]
    split, objects = next(iter(audit.objects.items()))
    known = np.flatnonzero(objects.images >= 0)
    firsts = [
        (split, int(objects.images[known[i]])) for i in np.unique(objects.categories[known], return_index=True)[1]
    ]
    chosen += [place for place in dict.fromkeys(firsts) if place not in chosen][: (num_images - len(chosen)) // 2]
    rest, num_splits = num_images - len(chosen), len(audit.records)
    for i, (split, records) in enumerate(audit.records.items()):
        left = [row for row in range(len(records.images)) if (split, row) not in chosen]
        share = min(len(left), (rest + num_splits - 1 - i) // num_splits)
        chosen += [(split, left[int(j)]) for j in np.linspace(0, len(left) - 1, share)]
    return chosen


def _read(records: Records, row: int) -> Tensor | None:
    """The image as its boxes see it, else as it is; None if it cannot be read."""
    values = records.images[row].values
    path = records.folder / values.get("file_name", "")
    stated = (values["height"], values["width"]) if {"height", "width"} <= values.keys() else None
    for size in (stated, None):
        try:
            return read_image(path, size)
        except (InputError, ValueError):  # another size; a name that no file system takes
            continue
    return None


def _tile(audit: Audit, split: str, row: int, image: Tensor, faults: dict[tuple[str, int | str], str]) -> Image.Image:
    """An image with its boxes, and a line that names it."""
    objects, classes = audit.objects[split], _classes(audit)
    boxes, captions, colours = [], [], []
    rows = np.flatnonzero(objects.images == row)
    for i in sorted(rows, key=lambda i: (split, objects.labels[i]) not in faults):  # faults first: on top
        fault = faults.get((split, objects.labels[i]))
        name, paint = classes.get(int(objects.categories[i]), ("?", FAULT))
        boxes.append(objects.xyxy[i])
        captions.append(f"{objects.labels[i]}: {fault}" if fault else "")
        colours.append(FAULT if fault else paint)
    picture = draw_boxes(image, torch.tensor(np.array(boxes).reshape(-1, 4)), captions, colours, TILE)
    tile = Image.new("RGB", (TILE, picture.shape[1] + LINE), "white")
    tile.paste(TF.to_pil_image(picture), (0, LINE))
    name = str(audit.records[split].images[row].values.get("file_name", "?"))
    _write(tile, (2, 2), f"{split} {Path(name).name}: {len(rows)}", "black")
    return tile


def _write(picture: Image.Image, place: tuple[int, int], text: str, paint: str) -> None:
    plain = text.encode("ascii", "backslashreplace").decode()[:48]
    ImageDraw.Draw(picture).text(place, plain, fill=paint, font=ImageFont.load_default(size=12))


def _grid(tiles: list[Image.Image], legend: list[tuple[str, str]]) -> Image.Image:
    """Tiles in rows, and below them names with their colours."""
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [max(tile.height for tile in row) + 4 for row in rows]
    lines = -(-len(legend) // 6)
    sheet = Image.new("RGB", (COLUMNS * (TILE + 4), sum(heights) + lines * LINE + 4), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            sheet.paste(tile, (i * (TILE + 4), top))
        top += height
    for i, (name, paint) in enumerate(legend):
        x, y = (i % 6) * sheet.width // 6 + 2, top + (i // 6) * LINE
        ImageDraw.Draw(sheet).rectangle([x, y + 3, x + 11, y + 14], fill=paint)
        _write(sheet, (x + 16, y + 2), name, "black")
    return sheet
