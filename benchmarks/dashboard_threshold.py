"""What a new threshold costs on the page of detections, and what opening it costs, at the size of COCO.

    .venv/bin/python benchmarks/dashboard_threshold.py                 5,000 images x 100 detections, two arms
    .venv/bin/python benchmarks/dashboard_threshold.py --images 300    the same in a moment

CPU time of the process: other work on the machine does not count. The browser's share is not in it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bootstrap import scenes

from dashboard.gallery import Arm, Look, card
from experiments.results.detections import image_order
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import counts
from experiments.results.detections.scenes import OUTCOMES

PAGE = 12  # images
THRESHOLDS = (0.5, 0.75, 0.3, 0.0)


def milliseconds(work: Callable[[], object]) -> tuple[object, float]:
    """What the work returns, and the CPU time that it took."""
    start = time.process_time()
    done = work()
    return done, 1e3 * (time.process_time() - start)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Times by name; those of a threshold are the slowest of THRESHOLDS."""
    annotations, detections = scenes(np.random.default_rng(args.seed), args.images, args.detections, args.classes)
    annotations["images"] = [image | {"width": 640, "height": 640} for image in annotations["images"]]
    rng = np.random.default_rng(args.seed)
    other = [one | {"score": one["score"] * rng.uniform(0.8, 1)} for one in detections]
    truth, read = milliseconds(lambda: read_truth(annotations))
    found, reading = milliseconds(lambda: [read_detections(truth, rows) for rows in (detections, other)])
    matched, matching = milliseconds(lambda: [match(one) for one in found])
    arms = [Arm(f"arm {i}", "#0072B2", one) for i, one in enumerate(matched)]
    figures, orders, drawings = [], [], []
    for threshold in THRESHOLDS:
        figures.append(milliseconds(lambda t=threshold: [counts(one, t) for one in matched])[1])
        order, spent = milliseconds(
            lambda t=threshold: np.argsort(-image_order.disagreement(matched, t), kind="stable")
        )
        orders.append(spent)
        look = Look(threshold, OUTCOMES, truth_apart=False, large=False)
        page = order[:PAGE].tolist()
        drawings.append(milliseconds(lambda p=page, v=look: [card(truth, arms, n, "no image", v) for n in p])[1])
    return {
        "open: read truth and two arms, ms": read + reading,
        "open: match two arms, ms": matching,
        "threshold: figures of two arms, ms": max(figures),
        "threshold: images by disagreement, ms": max(orders),
        "threshold: draw 12 images, ms": max(drawings),
        "threshold: all, ms": max(sum(row) for row in zip(figures, orders, drawings, strict=True)),
    }


def main() -> None:
    """Print the figures, one a line, and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 5000, "detections": 100, "classes": 80, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    args = parser.parse_args()
    figures = measure(args)
    for name, value in figures.items():
        print(f"{name:40s} {value:8.1f}")
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args) | {"json": None}, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
