"""Where each query's boxes are over the validation images (Carion et al., 2020, figure 7): frames from predictions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

SMALL, WIDE, TALL = "small", "large and wide", "large and tall"
SMALL_AREA = 0.03  # of the image: COCO's 96 x 96 pixels in an image of 640 x 480


def query_boxes(predictions: Path, images: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The box of every query in every image, one row each: image_id, query, category_id, score, x and y of its centre,
    width and height (in units of the image's sides), shape (small, large and wide, large and tall).

    predictions:  a results file of `detr`, whose every detection names its query; those that name none are left out
    images:       of the annotation file: id, width, height
    """
    found = [d for d in json.loads(predictions.read_text()) if "query" in d]
    frame = pd.DataFrame(found, columns=["image_id", "query", "category_id", "score", "bbox"])
    sizes = pd.DataFrame(images, columns=["id", "width", "height"]).set_index("id")
    frame = frame[frame["image_id"].isin(sizes.index)].reset_index(drop=True)
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
