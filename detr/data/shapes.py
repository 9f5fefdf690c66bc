"""Built-in set: drawn scenes of ellipses, rectangles and triangles, written as a folder in COCO format.

Objects of three size ranges, several colours and textured backgrounds, overlapping each other. Written once and the
same on every machine, so that a first answer needs no download.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from detr.config import DataConfig

CLASSES = ("ellipse", "rectangle", "triangle")
COLOURS = np.array(
    [(214, 69, 65), (65, 131, 215), (38, 166, 91), (245, 215, 110), (155, 89, 182), (235, 235, 235)], dtype=np.float64
)
SIZES = ((0.18, 0.26), (0.28, 0.4), (0.44, 0.64))  # side in units of the image: small, medium, large
MIN_VISIBLE = 0.6  # share of an object that later ones may not cover
SUPERSAMPLE = 3  # drawn larger and averaged, for smooth edges


def read_split(config: DataConfig, split: str) -> tuple[Path, Path]:
    """Find the annotation file and image folder of "train" or "val"; draws the scenes first if they are not there."""
    folder = write_shapes(config)
    return folder / "annotations" / f"instances_{split}.json", folder / split


def write_shapes(config: DataConfig) -> Path:
    """Write the scenes below `root` unless they are there; returns their folder."""
    name = _fingerprint(config)
    folder = Path(config.root) / name
    if not folder.is_dir():
        # Several runs may start at once: each writes its own copy, and the first to finish is kept.
        unfinished = folder.with_name(f"{name}.unfinished-{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        for split, count in (("train", config.shapes_num_train), ("val", config.shapes_num_val)):
            _write_split(unfinished, split, count, config)
        try:
            unfinished.rename(folder)
        except OSError:
            shutil.rmtree(unfinished)
            if not folder.is_dir():
                raise
    return folder


def _fingerprint(config: DataConfig) -> str:
    """Name a folder after the settings and the content of this file."""
    settings = {k: v for k, v in vars(config).items() if k.startswith("shapes_")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + Path(__file__).read_bytes())
    return f"shapes-{config.shapes_image_size}px-{digest.hexdigest()[:8]}"


def _write_split(folder: Path, split: str, count: int, config: DataConfig) -> None:
    side = config.shapes_image_size
    content: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng([config.shapes_seed, split == "val", i])
        pixels, objects = draw_scene(rng, side)
        file_name = f"{i:06d}.png"
        Image.fromarray(pixels).save(folder / split / file_name, compress_level=1)
        content["images"].append({"id": i + 1, "file_name": file_name, "width": side, "height": side})
        for label, box, area in objects:
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": i + 1, "category_id": label + 1,
                 "bbox": box, "area": area, "iscrowd": 0}
            )  # fmt: skip
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def draw_scene(rng: np.random.Generator, side: int) -> tuple[np.ndarray, list[tuple[int, list[float], float]]]:
    """Draw a scene of `side` x `side` pixels: uint8 (side, side, 3), and per object (label, xywh, area in px^2).

    1 to 3 objects; one that would hide too much of an earlier one is not drawn.
    """
    large = side * SUPERSAMPLE
    canvas = _background(rng, large)
    owner = np.full((large, large), -1)  # index of the object that is seen at each pixel
    drawn: list[tuple[int, np.ndarray]] = []
    for _ in range(rng.integers(1, 4)):
        label = int(rng.integers(len(CLASSES)))
        mask = _shape_mask(rng, label, large)
        covered = [(mask & (owner == i)).sum() + (m & (owner != i)).sum() for i, (_, m) in enumerate(drawn)]
        if any(hidden > (1 - MIN_VISIBLE) * m.sum() for hidden, (_, m) in zip(covered, drawn, strict=True)):
            continue
        colour = COLOURS[rng.integers(len(COLOURS))] + rng.normal(0, 12, 3)
        shade = 1 + rng.normal(0, 0.05, (large, large, 1))
        canvas = np.where(mask[..., None], colour * shade, canvas)
        owner[mask] = len(drawn)
        drawn.append((label, mask))
    pixels = canvas.reshape(side, SUPERSAMPLE, side, SUPERSAMPLE, 3).mean((1, 3))
    pixels += rng.normal(0, 6, pixels.shape)
    objects = [(label, *_box_and_area(mask)) for label, mask in drawn]
    return pixels.clip(0, 255).astype(np.uint8), objects


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a muted colour with a grating and coarse noise, (side, side, 3)."""
    y, x = np.mgrid[:side, :side] / side
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(2, 12)
    grating = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)))
    blotches = rng.normal(0, 1, (8, 8)).repeat(-(-side // 8), 0).repeat(-(-side // 8), 1)[:side, :side]
    return rng.uniform(50, 130, 3) + 12 * grating[..., None] + 9 * blotches[..., None]


def _shape_mask(rng: np.random.Generator, label: int, side: int) -> np.ndarray:
    """Draw a turned shape of random size and place as a boolean mask (side, side), at least half of it inside."""
    low, high = SIZES[rng.integers(len(SIZES))]
    width, height = rng.uniform(low, high, 2) * side
    centre = rng.uniform(0.15, 0.85, 2) * side
    if CLASSES[label] == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        corners = np.stack([np.cos(angles), np.sin(angles)], 1)
    elif CLASSES[label] == "rectangle":
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    else:
        corners = np.array([(0, -1), (1, 1), (-1, 1)])
    turn = rng.uniform(-0.12, 0.12)
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    points = (corners * (width / 2, height / 2)) @ rotation.T + centre
    image = Image.new("1", (side, side))
    ImageDraw.Draw(image).polygon([tuple(p) for p in points], fill=1)
    return np.asarray(image)


def _box_and_area(mask: np.ndarray) -> tuple[list[float], float]:
    """Measure xywh and area of a mask at SUPERSAMPLE times the resolution, in pixels of the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = columns[0] / SUPERSAMPLE, rows[0] / SUPERSAMPLE
    width, height = (columns[-1] + 1) / SUPERSAMPLE - x, (rows[-1] + 1) / SUPERSAMPLE - y
    return [round(float(v), 3) for v in (x, y, width, height)], round(float(mask.sum()) / SUPERSAMPLE**2, 3)
