"""Where each query's boxes are over the validation images (Carion et al., 2020, figure 7): frames from predictions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask

from experiments.results.detections.matching import GroundTruth

SMALL, WIDE, TALL = "small", "large and wide", "large and tall"
SMALL_AREA = 0.03  # of the image: COCO's 96 x 96 pixels in an image of 640 x 480


def query_boxes(predictions: Path, truth: GroundTruth) -> pd.DataFrame:
    """The box of every query in every image, one row each: image_id, query, category_id, score, x and y of its centre,
    width and height (in units of the image's sides), shape (small, large and wide, large and tall).

    predictions:  a results file of `detr`, whose every detection names its query; those that name none are left out
    """
    found = [d for d in json.loads(predictions.read_text()) if "query" in d]
    frame = pd.DataFrame(found, columns=["image_id", "query", "category_id", "score", "bbox"])
    sizes = pd.DataFrame(truth.sizes, index=truth.image_ids, columns=["width", "height"])
    known = frame["image_id"].isin(sizes.index) & frame["category_id"].isin(truth.category_ids)
    frame = frame[known].reset_index(drop=True)
    box = pd.DataFrame(frame.pop("bbox").tolist(), columns=["x", "y", "width", "height"], dtype=float)
    width, height = (frame["image_id"].map(sizes[side]) for side in ("width", "height"))
    frame["x"], frame["y"] = (box["x"] + box["width"] / 2) / width, (box["y"] + box["height"] / 2) / height
    frame["width"], frame["height"] = box["width"] / width, box["height"] / height
    frame["shape"] = TALL
    frame.loc[box["width"] >= box["height"], "shape"] = WIDE
    frame.loc[frame["width"] * frame["height"] < SMALL_AREA, "shape"] = SMALL
    return frame


def query_summary(boxes: pd.DataFrame) -> pd.DataFrame:
    """One row a query, the surest first: query, score (mean over images), spread (standard deviation of its centre
    over images, in units of the image's sides).

    boxes:  of `query_boxes`
    """
    groups = boxes.groupby("query")
    spread = groups[["x", "y"]].var(ddof=0).sum(axis=1) ** 0.5
    table = pd.DataFrame({"score": groups["score"].mean(), "spread": spread}).reset_index()
    return table.sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def in_pixels(boxes: pd.DataFrame, size: tuple[int, int]) -> np.ndarray:
    """Rows of `query_boxes` of one image of this width and height -> [N, 4]: x and y of the corner, width, height."""
    sides, extent = np.array(size, dtype=np.float64), boxes[["width", "height"]].to_numpy(np.float64)
    found = np.hstack([(boxes[["x", "y"]].to_numpy(np.float64) - extent / 2) * sides, extent * sides])
    return np.ascontiguousarray(found)  # pycocotools reads the memory row by row, whatever the array says


def closest(boxes: pd.DataFrame, chosen: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Of one image's boxes the row that overlaps the chosen row most, and their IoU; no row and 0 where none does."""
    if boxes.empty or chosen.empty:
        return boxes.iloc[:0], 0.0
    overlaps = mask.iou(in_pixels(boxes, (1, 1)), in_pixels(chosen, (1, 1)), [0])[:, 0]  # alike in any unit
    best = int(overlaps.argmax())
    return (boxes.iloc[[best]], float(overlaps[best])) if overlaps[best] > 0 else (boxes.iloc[:0], 0.0)
