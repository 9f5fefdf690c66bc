"""Sources of detections: the decoder's attention to the image, kept for the best detections of a few images."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

# They bound the file: 16 images x 32 queries x tokens x 2 bytes, 1.1 MB for DETR at 800 x 1333 pixels, 4.4 MB for DC5.
MAX_IMAGES = 16
MAX_QUERIES = 32  # of an image, those with the best scores


class AttentionMaps:
    """Maps of one validation pass, averaged over the heads of one decoder layer."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.tensors: dict[str, Tensor] = {}
        self.images: list[int | str] = []

    def add(self, image_id: int | str, weights: Tensor, scores: Tensor, padding_mask: Tensor) -> None:
        """Keep an image's maps, unless there are MAX_IMAGES already.

        weights:       (heads, Q, h, w), each query's summing to 1 over the cells
        scores:        (Q,), by which the queries to keep are chosen
        padding_mask:  (H, W) of the image's pixels, True on padding
        """
        if len(self.images) == MAX_IMAGES:
            return
        query = scores.topk(min(MAX_QUERIES, len(scores))).indices
        number = len(self.images)
        self.tensors[f"{number}.weights"] = weights.mean(0)[query].half().cpu().contiguous()  # (K, h, w)
        self.tensors[f"{number}.query"] = query.short().cpu()  # (K,) as in predictions.json, best first
        self.tensors[f"{number}.extent"] = map_extent((weights.shape[-2], weights.shape[-1]), padding_mask)
        self.images.append(image_id)

    def extend(self, later: "AttentionMaps") -> None:
        """Append another process's images, up to MAX_IMAGES."""
        for number, image_id in enumerate(later.images[: MAX_IMAGES - len(self.images)]):
            for name in ("weights", "query", "extent"):
                self.tensors[f"{len(self.images)}.{name}"] = later.tensors[f"{number}.{name}"]
            self.images.append(image_id)

    def save(self, path: Path, step: int) -> None:
        """Write a safetensors file in one step; nothing where no image was added.

        For the n-th image it holds n.weights (K, h, w) float16, n.query (K,) int16 and n.extent (2,) float32; the
        metadata tell the ids of the images as JSON, the layer, and the optimiser step.
        """
        if not self.images:
            return
        metadata = {"images": json.dumps(self.images), "layer": str(self.layer), "step": str(step)}
        beside = path.with_name(f"{path.name}.unfinished")
        save_file(self.tensors, beside, metadata)
        beside.replace(path)


def map_extent(size: tuple[int, int], padding_mask: Tensor) -> Tensor:
    """Measure height and width of a feature map (h, w) in units of the unpadded image's, (2,).

    Both are at least 1, as the padded image is at least as large and its last cells may hang over.

    padding_mask:  (H, W), True on padding
    """
    # Every stage halves and rounds up, so h = ceil(H / stride).
    padded = padding_mask.shape
    stride = 2 ** max(math.ceil(math.log2(pixels / cells)) for pixels, cells in zip(padded, size, strict=True))
    valid = ~padding_mask
    return torch.tensor(size) * stride / torch.tensor([int(valid.any(1).sum()), int(valid.any(0).sum())])
