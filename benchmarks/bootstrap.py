"""Speed of the bootstrap of COCO AP.

    .venv/bin/python -m benchmarks.bootstrap                    ms per replicate and arm, and against COCOeval again
    .venv/bin/python -m benchmarks.bootstrap --images 200       the same in a few seconds

Speed is CPU time of the process, so other work on the machine does not count and a second thread would.
"""

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.table import Entry
from experiments.results import bootstrap


def scenes(
    rng: np.random.Generator, num_images: int, num_detections: int, num_classes: int, num_objects: float = 7.3
) -> tuple[dict, list[dict]]:
    """Annotations of about `num_objects` an image (7.3 in COCO val2017), and `num_detections` an image.

    Every object is found with some error of place; the other detections lie anywhere and tend to lower scores.
    """
    rarity = 1 / np.arange(1, num_classes + 1)
    annotations, detections = [], []
    for image in range(num_images):
        count = min(rng.poisson(num_objects), num_detections)
        boxes = np.concatenate([rng.uniform(0, 400, (count, 2)), rng.lognormal(4, 0.8, (count, 2))], axis=1)
        labels = rng.choice(num_classes, count, p=rarity / rarity.sum())
        jittered = boxes + rng.normal(0, 0.1, boxes.shape) * np.tile(boxes[:, 2:], 2) * rng.random((count, 1))
        clutter = rng.uniform(0, 400, (num_detections - count, 4))
        found = np.concatenate([jittered, clutter])
        found_labels = np.concatenate([labels, rng.integers(num_classes, size=len(clutter))])
        scores = np.concatenate([rng.beta(2, 2, count), rng.beta(1, 6, len(clutter))])
        annotations += [
            {"image_id": image, "category_id": int(c), "bbox": b, "iscrowd": int(rng.random() < 0.01)}
            for c, b in zip(labels, boxes.tolist(), strict=True)
        ]
        detections += [
            {"image_id": image, "category_id": int(c), "bbox": b, "score": float(s)}
            for c, b, s in zip(found_labels, found.tolist(), scores, strict=True)
        ]
    categories = [{"id": k, "name": f"class {k}"} for k in range(num_classes)]
    images = [{"id": image} for image in range(num_images)]
    return {"images": images, "categories": categories, "annotations": annotations}, detections


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def speed(args: argparse.Namespace) -> dict[str, float]:
    """CPU times of a replicate by reweighting, and of the same by COCOeval: evaluate and accumulate again."""
    annotations, detections = scenes(np.random.default_rng(args.seed), args.images, args.detections, args.classes)
    table = bootstrap.match(annotations, detections)
    rng = np.random.default_rng(args.seed)

    def reweight() -> None:
        for _ in range(0, args.replicates, bootstrap.CHUNK):
            bootstrap.weighted_ap(table, bootstrap.image_weights(rng, args.images, bootstrap.CHUNK))

    def evaluate_again() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator.evaluate()
            evaluator.accumulate()

    # The same work for both: area all, 100 detections an image. A resampled file would be as large as this one.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        numbered = enumerate(annotations["annotations"], start=1)
        boxes = [box | {"id": n, "area": box["bbox"][2] * box["bbox"][3]} for n, box in numbered]
        truth.dataset = {**annotations, "annotations": boxes}
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluator.params.areaRng, evaluator.params.maxDets = [[0, 1e10]], [bootstrap.MAX_DETECTIONS]
    num_replicates = -(-args.replicates // bootstrap.CHUNK) * bootstrap.CHUNK
    ours, again = 1e3 * cpu_seconds(reweight) / num_replicates, 1e3 * cpu_seconds(evaluate_again)
    precision = evaluator.eval["precision"]
    exact = bootstrap.weighted_ap(table, np.ones((1, args.images), dtype=int))[0]
    return {
        "ms_per_replicate_and_arm": ours,
        "ms_cocoeval_again": again,
        "times_as_fast": again / ours,
        "difference_from_cocoeval": abs(float(exact - precision[precision > -1].mean())),
    }


def entries(repetitions: int = 2) -> Iterator[Entry]:
    """CPU time of a replicate of AP against COCOeval again."""
    size = {"images": 5000, "detections": 100, "classes": 80}
    found = [speed(argparse.Namespace(**size, seed=seed, replicates=256)) for seed in range(repetitions)]
    apart = max(one["difference_from_cocoeval"] for one in found)
    assert apart < 1e-6, f"AP differs by {apart} from COCOeval's"
    low, ratio, high = statistics.quantiles([one["times_as_fast"] for one in found], n=4)
    figures = {"ours (ms)": statistics.median(one["ms_per_replicate_and_arm"] for one in found),
               "COCOeval again (ms)": statistics.median(one["ms_cocoeval_again"] for one in found)}  # fmt: skip
    work = "a replicate of AP: {images} images x {detections} detections, {classes} classes, CPU time".format(**size)
    yield Entry("AP bootstrap", "COCOeval again", work, ratio, (high - low) / 2, "200 x", figures)


def main() -> None:
    """Print the figures, one a line, and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 5000, "detections": 100, "classes": 80, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--replicates", type=int, default=256, help="default 256; the speed is of whole chunks")
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    args = parser.parse_args()
    figures = speed(args)
    for name, value in figures.items():
        print(f"{name:28s} {value:.4g}")
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args) | {"json": None}, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
