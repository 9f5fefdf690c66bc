"""Own metric: the share of objects on which a confident detection of their class is centred.

python experiments/run.py evaluation.extra=examples.hit_rate:hit_rate
"""

from pathlib import Path
from typing import Any

from detr.data.coco import load_annotations

THRESHOLD = 0.5  # of the score


def hit_rate(annotations: Path, detections: list[dict[str, Any]]) -> dict[str, float]:
    """Measure {"hit_rate": 0..1}, logged as val/hit_rate.

    annotations:  a COCO annotation file
    detections:   results in COCO format: image_id, category_id, bbox (x, y, width, height in pixels), score
    """
    centres: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for found in detections:
        if found["score"] > THRESHOLD:
            x, y, width, height = found["bbox"]
            centres.setdefault((found["image_id"], found["category_id"]), []).append((x + width / 2, y + height / 2))
    objects = [a for a in load_annotations(annotations)["annotations"] if not a["iscrowd"]]
    hits = 0
    for record in objects:
        left, top, width, height = record["bbox"]
        near = centres.get((record["image_id"], record["category_id"]), [])
        hits += any(left <= x <= left + width and top <= y <= top + height for x, y in near)
    return {"hit_rate": hits / len(objects)} if objects else {}
