"""COCO metrics by faster-coco-eval, an option of evaluation.backend, against pycocotools.

    .venv/bin/python -m benchmarks.evaluation

5,000 images with 100 detections each and 80 classes, from the annotation file to all figures, which must be the same to
1e-12. CPU time, so that a second thread would count.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bootstrap import scenes
from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.evaluation import evaluate_coco

DETECTIONS, CLASSES = 100, 80
OURS, PEER = "faster-coco-eval", "pycocotools"


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
        found = {}

        def evaluate(backend: str) -> None:
            found[backend] = evaluate_coco(path, detections, backend=backend)

        works = {backend: partial(evaluate, backend) for backend in (OURS, PEER)}
        seconds = interleave(works, repetitions, time.process_time)
    apart = max(abs(found[OURS][key] - value) for key, value in found[PEER].items())
    assert apart < 1e-12, f"the figures differ by {apart}"
    ratio, spread = ratio_and_spread(seconds[OURS], seconds[PEER])
    figures = {f"{backend} (s)": statistics.median(seconds[backend]) for backend in works}
    figures["figures differ by"] = apart
    work = f"{images} images x {DETECTIONS} detections, {CLASSES} classes, CPU time"
    yield Entry("COCO evaluation, evaluation.backend=faster-coco-eval", PEER, work, ratio, spread, "equal to 1e-12",
                figures)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    show(entries(arguments.repetitions, arguments.images))
