"""Data sets in COCO format, on disk or drawn, and their way into batches."""

from pathlib import Path

from detr.config import DataConfig
from detr.data.coco import CocoDetection
from detr.data.shapes import write_shapes
from detr.errors import InputError

__all__ = ["CocoDetection", "open_split", "split_paths"]


def split_paths(config: DataConfig, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of "train" or "val"; InputError when one is missing. Draws the built-in set."""
    if config.name == "shapes":
        config = write_shapes(config)
    root = Path(config.root)
    if not root.is_dir():
        raise InputError(f"data.root={config.root}: there is no such folder; give the folder of a COCO-format data set")
    annotations = root / getattr(config, f"{split}_annotations")
    images = root / getattr(config, f"{split}_images")
    if not annotations.is_file():
        raise InputError(f"data.{split}_annotations={annotations}: there is no such file")
    if not images.is_dir():
        raise InputError(f"data.{split}_images={images}: there is no such folder")
    return annotations, images


def open_split(config: DataConfig, split: str, seed: int = 0) -> CocoDetection:
    """The "train" or "val" part of the configured data set; InputError when something is missing or malformed."""
    annotations, images = split_paths(config, split)
    return CocoDetection(annotations, images, config, train=split == "train", seed=seed)
