"""Detections on a data set and their COCO metrics. pycocotools is the reference."""

import contextlib
import importlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.utils.data import DataLoader

from detr.audit import COCO_AREA_LIMITS
from detr.config import DataConfig, EvaluationConfig
from detr.criterion import SetCriterion
from detr.data.batch import Batch, batches, collate
from detr.data.coco import CocoDetection, load_annotations
from detr.data.sampler import chunks
from detr.data.transforms import normalize, target_size
from detr.distributed import rank, shard, world_size
from detr.errors import InputError
from detr.postprocess import postprocess

STATS = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
LOGGED_LOSSES = ("loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error")
Detections = list[dict[str, Any]]


def evaluate_coco(
    annotations_json: Path | str,
    detections: Detections | Path | str,
    area_limits: tuple[float, float] = COCO_AREA_LIMITS,
    backend: str = "pycocotools",
) -> dict[str, float]:
    """Compute the COCO box metrics of pycocotools, in 0..1, and -1 where there is nothing to find.

    annotations_json:  a COCO annotation file
    detections:        results in COCO format (image_id, category_id, bbox xywh, score), or the file that holds them
    area_limits:       px^2 of the annotation's `area` that part small | medium | large
    backend:           pycocotools | faster-coco-eval
    returns            AP, AP50, AP75, APS, APM, APL, AR1, AR10, AR100, ARS, ARM, ARL and "AP/<class>" of every class
    """
    found = detections if isinstance(detections, list) else json.loads(Path(detections).read_text())
    content = load_annotations(annotations_json)
    for i, record in enumerate(content["annotations"], start=1):
        record["id"] = i  # pycocotools takes a match with annotation 0 for no match
    unknown = {d["image_id"] for d in found} - {image["id"] for image in content["images"]}
    if unknown:
        raise InputError(f"{annotations_json}: detections name the image {min(unknown)}, which is not in the file")
    index, evaluator = coco_classes(backend)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on standard output
        truth, results = _index(index(), content), _index(index(), {**content, "annotations": _with_areas(found)})
        evaluation = evaluator(truth, results, "bbox")
        small, medium = area_limits
        evaluation.params.areaRng = [[0, 1e10], [0, small], [small, medium], [medium, 1e10]]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = dict(zip(STATS, evaluation.stats.tolist(), strict=True))
    precision = evaluation.eval["precision"][..., 0, -1]  # (IoU, recall, class) at all areas and 100 detections
    for k, category in enumerate(evaluation.params.catIds):
        valid = precision[..., k][precision[..., k] > -1]
        metrics[f"AP/{truth.cats[category]['name']}"] = float(valid.mean()) if valid.size else -1.0
    return metrics


def coco_classes(backend: str) -> tuple[type, type]:
    """Find COCO and COCOeval, or the backend's replacements. InputError when its package is not installed."""
    if backend == "pycocotools":
        return COCO, COCOeval
    try:
        package = importlib.import_module(backend.replace("-", "_"))
    except ImportError as error:
        remedy = f"pip install {backend}, or take pycocotools"
        raise InputError(f"evaluation.backend={backend!r} cannot be used ({error}): {remedy}") from None
    return package.COCO, package.COCOeval_faster


def _index(coco: Any, content: dict[str, Any]) -> Any:
    """The COCO object with parsed content; its own loadRes would refuse an empty list of detections."""
    coco.dataset = content
    coco.createIndex()
    return coco


def _with_areas(detections: Detections) -> Detections:
    return [
        {**d, "id": i, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0} for i, d in enumerate(detections, start=1)
    ]


def validation_loader(dataset: CocoDetection, data: DataConfig, config: EvaluationConfig) -> DataLoader:
    """Load every image once, in batches that the ranks share.

    With `pad_to` >= 1 a batch holds images of one padded size only, so that an image's predictions do not depend on the
    images beside it.
    """
    order = [(0, i) for i in range(len(dataset))]
    if config.pad_to == 0:
        groups = [order]
    else:
        by_size = defaultdict(list)
        for key in order:
            record = dataset.images[key[1]]
            size = target_size(record["height"], record["width"], data.image_size, data.max_size)
            by_size[tuple(-(-side // config.pad_to) for side in size)].append(key)
        groups = list(by_size.values())
    keys = [part for group in groups for part in chunks(group, config.batch_size)]
    return DataLoader(
        dataset,
        batch_sampler=shard(keys, rank(), world_size()),
        collate_fn=partial(collate, multiple=max(config.pad_to, 1)),
        num_workers=data.num_workers,
    )


@torch.no_grad()
def predict_dataset(
    model: nn.Module,
    loader: DataLoader,
    criterion: SetCriterion,
    device: torch.device,
    watch: Callable[[Batch, dict[str, Any]], None] | None = None,
) -> tuple[Detections, dict[str, float]]:
    """Detect with all queries, in COCO results format, and compute the losses normalised over the whole set.

    On several ranks their detections follow each other, and their losses add up. `watch` is called with every batch
    and the model's outputs for it.
    """
    dataset = cast(CocoDetection, loader.dataset)
    model.eval()
    targets = [dataset.counts(i) for i in range(len(dataset))]
    normalizers = criterion.normalizers(targets)
    detections: Detections = []
    sums: dict[str, float] = defaultdict(float)
    for batch in batches(loader):
        moved = batch.to(device)
        outputs = model(normalize(moved.images, moved.padding_mask), moved.padding_mask)
        losses = criterion(outputs, moved.targets, normalizers)
        losses["loss"] = criterion.total(losses)
        for key, value in losses.items():
            sums[key] += value.item()
        if watch:
            watch(batch, outputs)
        results = postprocess(outputs, torch.stack([t["size"] for t in batch.targets]), criterion.classification)
        for target, result in zip(batch.targets, results, strict=True):
            detections += coco_results(target["image_id"], dataset, result)
    return detections, dict(sums)


def coco_results(image_id: int, dataset: CocoDetection, result: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
    """Convert an image's detections from `postprocess` to COCO results format; "query" is the query's index.

    Labels that stand for no category of the data (a model may have more) are no detections.
    """
    boxes = result["boxes"].cpu().double().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    categories = dataset.category_ids.tolist()
    columns = result["query"].tolist(), result["labels"].tolist(), result["scores"].tolist()
    for query, label, score, box in zip(*columns, np.round(boxes, 3).tolist(), strict=True):
        if label < len(categories) and categories[label] in dataset.names:
            found = {"image_id": image_id, "category_id": categories[label], "bbox": box}
            yield found | {"score": round(score, 7), "query": query}
