"""Pictures of detections."""

import json
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import draw_bounding_boxes, make_grid

from detr.data.coco import CocoDetection
from detr.data.image import read_image

MIN_SIDE = 256  # pixels; smaller pictures are enlarged so that captions can be read


def draw_boxes(image: Tensor, boxes: Tensor, captions: list[str], colours: list[str]) -> Tensor:
    """Boxes (n, 4) xyxy in pixels with a caption and a colour each, on a uint8 image (3, h, w), enlarged if small."""
    scale = max(1.0, MIN_SIDE / min(image.shape[-2:]))
    image = TF.resize(image, [round(side * scale) for side in image.shape[-2:]], antialias=True)
    if not len(boxes):
        return image
    boxes = boxes * scale
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)  # a box thinner than a pixel is still drawn
    return draw_bounding_boxes(image, boxes, captions, colors=colours, width=2)


def draw_samples(
    dataset: CocoDetection, predictions: Path, picture: Path, num_images: int = 8, threshold: float = 0.5
) -> None:
    """Write a picture of the first images: ground truth left, detections with a score above `threshold` right."""
    found = defaultdict(list)
    for detection in json.loads(predictions.read_text()):
        if detection["score"] > threshold:
            found[detection["image_id"]].append(detection)
    names = list(dataset.names.values())
    tiles = []
    for index in range(min(num_images, len(dataset))):
        record = dataset.images[index]
        image = read_image(dataset.path(index), (record["height"], record["width"]))
        truth = [dataset.names[int(dataset.category_ids[label])] for label in dataset.labels[index]]
        detected = found[record["id"]]
        boxes = torch.tensor([d["bbox"] for d in detected]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = [dataset.names[d["category_id"]] for d in detected]
        captions = [f"{name} {d['score']:.2f}" for name, d in zip(classes, detected, strict=True)]
        tiles.append(draw_boxes(image, dataset.boxes[index].clone(), truth, [colour(n, names) for n in truth]))
        tiles.append(draw_boxes(image, boxes, captions, [colour(n, names) for n in classes]))
    height, width = (max(t.shape[i] for t in tiles) for i in (1, 2))
    tiles = [TF.pad(t, [0, 0, width - t.shape[2], height - t.shape[1]]) for t in tiles]
    grid = make_grid(tiles, nrow=4, padding=4, pad_value=255)
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(picture)


# Okabe and Ito's palette, which the colour-blind can tell apart
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def colour(name: str, names: list[str]) -> str:
    """The colour of a class."""
    return PALETTE[names.index(name) % len(PALETTE)]
