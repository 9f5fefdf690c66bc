"""The decoder's attention to the image, as runs stored it: which part of an image a detection was made from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open


class AttentionError(ValueError):
    """The file is none of `detr.diagnostics.attention_maps`; the message names it and what to do."""


@dataclass(frozen=True)
class ImageAttention:
    """The maps of one image's best queries, averaged over the heads of the last decoder layer."""

    queries: tuple[int, ...]  # as in predictions.json, best score first
    weights: np.ndarray  # (K, h, w) float32, each map summing to 1 over the cells that are not padding
    extent: tuple[float, float]  # height and width of a map in units of the image's, at least 1

    def map_of(self, query: int) -> np.ndarray | None:
        """The query's map (h, w); None where it was not among the best of its image."""
        return self.weights[self.queries.index(query)] if query in self.queries else None


@dataclass(frozen=True)
class Attention:
    """All maps that a run kept, of its last evaluation."""

    step: int  # optimiser steps done
    layer: int  # of the decoder, from 0
    images: dict[Any, ImageAttention]  # by image id


def read_attention(path: Path) -> Attention:
    """Read a file of `detr.diagnostics.attention_maps`; AttentionError where it is none or only half of one."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            images = {}
            for number, image_id in enumerate(json.loads(about["images"])):
                query, weights, extent = (file.get_tensor(f"{number}.{key}") for key in ("query", "weights", "extent"))
                if weights.ndim != 3 or query.shape != weights.shape[:1] or extent.shape != (2,):
                    raise AttentionError(f"{path}: the tensors of image {image_id} do not fit together")
                height, width = extent.tolist()
                images[image_id] = ImageAttention(tuple(query.tolist()), weights.astype(np.float32), (height, width))
            return Attention(int(about["step"]), int(about["layer"]), images)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise AttentionError(f"{path}: no attention maps ({error}); train the run again to write them") from error
