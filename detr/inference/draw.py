"""Pictures of detections."""

import json
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import make_grid

from detr.data.coco import CocoDetection
from detr.data.image import read_image

MIN_SIDE = 256  # pixels; smaller pictures are enlarged so that captions can be read
MAX_ENLARGED_SIDE = 2048  # of the longer side after that: a picture of 1 x N pixels stays small
TILE_SIDE = 640  # of the longer side in a grid of samples

# Okabe and Ito's palette, which that the colour-blind can tell apart
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def colour(index: int) -> str:
    """Colour of a class."""
    return PALETTE[index % len(PALETTE)]


def draw_boxes(
    image: Tensor, boxes: Tensor, captions: list[str], colours: list[str], max_side: int | None = None
) -> Tensor:
    """Draw boxes with a caption and a colour each, the first one on top.

    image:     uint8 (3, h, w); enlarged if small, and reduced to `max_side` if that is given
    boxes:     (n, 4) xyxy in pixels of the image; parts outside are drawn along the border
    returns    uint8 (3, H, W)
    """
    scale = _scale(image.shape[-2:], max_side)
    if scale != 1:
        image = TF.resize(image, [max(1, round(side * scale)) for side in image.shape[-2:]], antialias=True)
    picture = TF.to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    thickness = max(2, round(min(picture.size) / 250))
    font = ImageFont.load_default(size=max(11.0, min(picture.size) / 40))
    corners = [_fit(box, picture.size) for box in (boxes * scale).tolist()]
    items = list(zip(corners, captions, colours, strict=True))[::-1]
    for box, _, paint in items:
        draw.rectangle(box, outline=paint, width=thickness)
    for box, caption, paint in items:  # after all boxes, so that none crosses a caption
        _write(draw, (box[0], box[1]), caption, paint, font, picture.size)
    return TF.pil_to_tensor(picture)


def _scale(size: tuple[int, ...], max_side: int | None) -> float:
    """Factor from an image of (height, width) to its picture."""
    short, long = min(size), max(size)
    scale = max(1.0, min(MIN_SIDE / short, MAX_ENLARGED_SIDE / long))
    return min(scale, max_side / long) if max_side else scale


def _fit(box: list[float], size: tuple[int, int]) -> list[float]:
    """Box xyxy moved inside a picture of (width, height), at least a pixel in extent if the picture has room."""
    low = [min(max(v, 0), side - 1) for v, side in zip(box[:2], size, strict=True)]
    high = [min(max(v, first + 1), side - 1) for v, first, side in zip(box[2:], low, size, strict=True)]
    return [*low, *(max(a, b) for a, b in zip(low, high, strict=True))]


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    caption: str,
    paint: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write a caption on its colour, above the box's upper left corner, or inside if there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(corner[0], size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle([x, y, x + width, y + height], fill=paint)
    red, green, blue = ImageColor.getrgb(paint)[:3]
    is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 120
    draw.text((x + 2 - left, y + 2 - top), caption, fill="black" if is_bright else "white", font=font)


def draw_samples(
    dataset: CocoDetection, predictions: Path, picture: Path, num_images: int = 8, threshold: float = 0.5
) -> None:
    """Write a picture of the first images: ground truth left, detections with a score above `threshold` right."""
    found = defaultdict(list)
    for detection in json.loads(predictions.read_text()):
        if detection["score"] > threshold:
            found[detection["image_id"]].append(detection)
    order = {category: i for i, category in enumerate(dataset.names)}  # category id -> index of its colour
    tiles = []
    for index in range(min(num_images, len(dataset))):
        record = dataset.images[index]
        image = read_image(dataset.path(index), (record["height"], record["width"]))
        truth = dataset.category_ids[dataset.labels[index]].tolist()
        detected = sorted(found[record["id"]], key=lambda d: -d["score"])
        classes = [d["category_id"] for d in detected]
        boxes = torch.tensor([d["bbox"] for d in detected]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        names = [dataset.names[c] for c in truth]
        captions = [f"{dataset.names.get(d['category_id'], '?')} {d['score']:.2f}" for d in detected]
        tiles.append(draw_boxes(image, dataset.boxes[index], names, [colour(order[c]) for c in truth], TILE_SIDE))
        tiles.append(draw_boxes(image, boxes, captions, [colour(order.get(c, c)) for c in classes], TILE_SIDE))
    height, width = (max(t.shape[i] for t in tiles) for i in (1, 2))
    tiles = [TF.pad(t, [0, 0, width - t.shape[2], height - t.shape[1]]) for t in tiles]
    grid = make_grid(tiles, nrow=4, padding=4, pad_value=255)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(picture)
