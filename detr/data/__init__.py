"""Data sets of any format, read as COCO's, and their way into batches.

A format is the module of its name in this room. Its `read_split(config, split)` returns the annotations of "train" or
"val", as the content of a COCO file or as the path of one, and the folder of the images.
"""

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

from detr.config import DataConfig
from detr.data.coco import CocoDetection
from detr.errors import InputError
from detr.extensions import call

__all__ = ["CocoDetection", "open_split", "split_paths"]


def split_paths(config: DataConfig, split: str) -> tuple[Path, Path]:
    """Find the COCO annotation file and the image folder of "train" or "val"; InputError when one is missing.

    Draws the built-in set, and converts annotations of other formats, if that was not done before.
    """
    if config.target:
        found = call("data.target", config.target, config, split, **(config.options or {}))
        if not isinstance(found, tuple) or len(found) != 2:
            raise InputError(
                f"data.target={config.target!r}: must return (annotations, image folder), not {found!r:.99}"
            )
        annotations, images = found
    else:
        annotations, images = importlib.import_module(f"detr.data.{config.name}").read_split(config, split)
    if isinstance(annotations, dict):
        annotations = keep_converted(annotations, Path(config.root), split)
    return Path(annotations), Path(images)


def keep_converted(content: dict[str, Any], root: Path, split: str) -> Path:
    """Write annotations as a COCO file below `root`, named after their content, unless it is there."""
    text = json.dumps(content, sort_keys=True)
    path = root / "converted" / f"{split}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.is_file():
        beside = path.with_name(f"{path.name}.unfinished-{os.getpid()}")  # several runs may start at once
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(text)
            beside.replace(path)
        except OSError as error:
            raise InputError(
                f"data.root={root}: the converted annotations cannot be written there ({error}); make the folder "
                "writable, or have data.target return the path of a COCO file"
            ) from None
    return path


def open_split(config: DataConfig, split: str, seed: int = 0) -> CocoDetection:
    """Open the "train" or "val" part of the configured data set; InputError when it is missing or malformed."""
    annotations, images = split_paths(config, split)
    return CocoDetection(annotations, images, config, train=split == "train", seed=seed)
