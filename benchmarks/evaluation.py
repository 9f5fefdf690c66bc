"""COCO metrics by faster-coco-eval, an option of evaluation.backend, against pycocotools and torchmetrics.

    .venv/bin/python -m benchmarks.evaluation

5,000 images with 100 detections each and 80 classes, from the annotation file to all figures, which must be the same to
1e-12. torchmetrics is given tensors instead of the file, its faster backend, and pycocotools' thresholds (its own are
rounded to float32, which moves AP by 0.0002). It rounds to float32, so its figures must be the same to 1e-6; AP of
each class is not among them, for which it would evaluate every class again. CPU time, so that a second thread would
count.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import Params
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from benchmarks.bootstrap import scenes
from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.evaluation import STATS, evaluate_coco

DETECTIONS, CLASSES = 100, 80
OURS, REFERENCE, TORCHMETRICS = "faster-coco-eval", "pycocotools", "torchmetrics with faster-coco-eval"
AREAS = ("small", "medium", "large")
NAMES = [f"map{end}" for end in ("", "_50", "_75", *(f"_{area}" for area in AREAS))]  # torchmetrics', in the order
NAMES += [f"mar_{end}" for end in (1, 10, 100, *AREAS)]  # of evaluation.STATS
THRESHOLDS = {"iou_thresholds": Params().iouThrs.tolist(), "rec_thresholds": Params().recThrs.tolist()}


def as_tensors(records: list[dict[str, Any]], images: int) -> list[dict[str, Tensor]]:
    """Objects or detections in COCO format as torchmetrics takes them: for each image boxes (n, 4) xywh, labels (n,),
    and iscrowd or scores (n,).
    """
    by_image: dict[int, list[dict[str, Any]]] = {image: [] for image in range(images)}
    for record in records:
        by_image[record["image_id"]].append(record)
    key, name, kind = (
        ("score", "scores", torch.float32) if "score" in records[0] else ("iscrowd", "iscrowd", torch.int64)
    )
    return [
        {
            "boxes": torch.tensor([r["bbox"] for r in found]).reshape(-1, 4),
            "labels": torch.tensor([r["category_id"] for r in found], dtype=torch.int64),
            name: torch.tensor([r[key] for r in found], dtype=kind),
        }
        for found in by_image.values()
    ]


def entries(repetitions: int = 2, images: int = 5000) -> Iterator[Entry]:
    """Seconds of one evaluation."""
    annotations, detections = scenes(np.random.default_rng(0), images, DETECTIONS, CLASSES)
    for number, record in enumerate(annotations["annotations"]):
        record["id"] = number
    sizes = {"file_name": "-", "width": 640, "height": 640}
    content = annotations | {"images": [image | sizes for image in annotations["images"]]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(content))
        predictions, targets = (as_tensors(records, images) for records in (detections, content["annotations"]))
        found = {}

        def evaluate(backend: str) -> None:
            found[backend] = evaluate_coco(path, detections, backend=backend)

        def evaluate_tensors() -> None:
            metric = MeanAveragePrecision("xywh", backend="faster_coco_eval", **THRESHOLDS)
            metric.update(predictions, targets)
            found[TORCHMETRICS] = metric.compute()

        works = {backend: partial(evaluate, backend) for backend in (OURS, REFERENCE)}
        works[TORCHMETRICS] = evaluate_tensors
        seconds = interleave(works, repetitions, time.process_time)
    apart = {
        REFERENCE: max(abs(found[OURS][key] - value) for key, value in found[REFERENCE].items()),
        TORCHMETRICS: max(
            abs(found[OURS][ours] - float(found[TORCHMETRICS][theirs]))
            for ours, theirs in zip(STATS, NAMES, strict=True)
        ),
    }
    work = f"{images} images x {DETECTIONS} detections, {CLASSES} classes, CPU time"
    for peer, tolerance in ((REFERENCE, "1e-12"), (TORCHMETRICS, "1e-6")):
        assert apart[peer] < float(tolerance), f"the figures of {peer} differ by {apart[peer]}"
        ratio, spread = ratio_and_spread(seconds[OURS], seconds[peer])
        figures = {f"{name} (s)": statistics.median(seconds[name]) for name in (OURS, peer)}
        figures["figures differ by"] = apart[peer]
        yield Entry("COCO evaluation, evaluation.backend=faster-coco-eval", peer, work, ratio, spread,
                    f"equal to {tolerance}", figures)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    show(entries(arguments.repetitions, arguments.images))
