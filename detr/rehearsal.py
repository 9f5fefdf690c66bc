"""Rehearsal of a user's own parts: each is tried on a little data before the run spends time on it."""

import copy
import io
import pickle
from numbers import Real
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from detr.config import RunConfig
from detr.criterion import SetCriterion
from detr.data.batch import Batch, pad_samples
from detr.data.coco import CocoDetection
from detr.data.transforms import normalize
from detr.errors import InputError
from detr.evaluation import LOGGED_LOSSES, STATS
from detr.extensions import call
from detr.optim import optimizer_of
from detr.seeds import seed_dropout

NUM_DETECTIONS = 100  # for a metric's rehearsal
TAKEN = (*STATS, *LOGGED_LOSSES, "seconds")  # names of an evaluation's metrics
UPDATE_TOLERANCE = 1e-2  # of a step's update; kernels of GPUs add up in any order


def rehearse(
    config: RunConfig,
    model: nn.Module,
    criterion: SetCriterion,
    train_set: CocoDetection,
    val_set: CocoDetection,
    device: torch.device,
) -> None:
    """Try every part that the config names by a dotted path. InputError names the setting and the fault."""
    if config.data.transform:
        rehearse_transform(config.data.transform, train_set)
    if config.model.target or config.optim.target:
        samples = [train_set[0, i] for i in range(min(2, len(train_set)))]
        rehearse_step(config, model, criterion, pad_samples(samples).to(device))
    if config.evaluation.extra:
        rehearse_metric(config.evaluation.extra, val_set)


def rehearse_transform(path: str, dataset: CocoDetection) -> None:
    """Augment one image twice: format and shapes, and equal draws from equal seeds."""
    where = f"data.transform={path!r}"
    (image, target), (again, _) = dataset[0, 0], dataset[0, 0]
    boxes, labels = target["boxes"], target["labels"]
    if not (image.dtype == torch.uint8 and image.dim() == 3 and image.shape[0] == 3):
        raise InputError(f"{where}: gives an image {tuple(image.shape)} of {image.dtype}, not (3, h, w) of uint8")
    if not (boxes.dim() == 2 and boxes.shape == (len(labels), 4)):
        raise InputError(f"{where}: gives boxes {tuple(boxes.shape)} for {len(labels)} labels, not (n, 4) for n")
    if image.shape != again.shape or not torch.equal(image, again):
        raise InputError(f"{where}: two calls differ; draw random numbers from torch alone, which every sample seeds")


def rehearse_step(config: RunConfig, model: nn.Module, criterion: SetCriterion, batch: Batch) -> None:
    """Take a step with a copy of the model, save, load into another copy, and compare the next step of both."""
    where = f"model.target={config.model.target!r}" if config.model.target else f"optim.target={config.optim.target!r}"
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    optimizers = [optimizer_of(first, config.optim), optimizer_of(second, config.optim)]
    for name in ("param_groups", "step", "zero_grad", "state_dict", "load_state_dict"):
        if not hasattr(optimizers[0], name):
            raise InputError(f"{where}: the optimiser has no {name}")
    start = _weights(first)
    _step(where, first, optimizers[0], criterion, batch)
    between = _weights(first)
    if torch.equal(start, between):
        raise InputError(f"{where}: an optimiser step changes no weight")
    try:
        buffer = io.BytesIO()
        torch.save(optimizers[0].state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, map_location="cpu", weights_only=True)
        weights = safetensors.torch.save({k: v.contiguous() for k, v in first.state_dict().items()})
        second.load_state_dict(safetensors.torch.load(weights))
        optimizers[1].load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, pickle.PickleError) as error:
        raise InputError(f"{where}: its state_dict cannot be saved and loaded ({error})") from None
    for trial, optimizer in zip((first, second), optimizers, strict=True):
        _step(where, trial, optimizer, criterion, batch)
    after, resumed = _weights(first), _weights(second)
    if not (after - resumed).norm() <= UPDATE_TOLERANCE * (after - between).norm():
        raise InputError(f"{where}: after saving and loading the next step is another; state_dict must hold all state")


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _step(where: str, model: nn.Module, optimizer: Any, criterion: SetCriterion, batch: Batch) -> None:
    model.train()
    seed_dropout(batch.images.device, 0)
    outputs = model(normalize(batch.images, batch.padding_mask), batch.padding_mask)
    check_outputs(where, outputs, len(batch.images), criterion.classification.num_logits(criterion.num_classes))
    criterion.total(criterion(outputs, batch.targets)).backward()
    optimizer.step()
    optimizer.zero_grad()


def check_outputs(where: str, outputs: Any, batch_size: int, num_logits: int) -> None:
    """InputError unless the outputs have the shapes of DETR's, whatever their number of queries."""
    if not isinstance(outputs, dict) or not {"pred_logits", "pred_boxes", "aux_outputs"} <= outputs.keys():
        got = list(outputs) if isinstance(outputs, dict) else type(outputs).__name__
        raise InputError(f"{where}: must return a dict of pred_logits, pred_boxes and aux_outputs, not {got}")
    num_queries = outputs["pred_logits"].shape[1:2]
    for i, layer in enumerate([outputs, *outputs["aux_outputs"]]):
        for key, last in (("pred_logits", num_logits), ("pred_boxes", 4)):
            expected, found = (batch_size, *num_queries, last), tuple(layer[key].shape)
            if found != expected:
                name = key if i == 0 else f"aux_outputs[{i - 1}][{key!r}]"
                raise InputError(f"{where}: {name} is {found}, not {expected} as (images, queries, values)")
    low, high = outputs["pred_boxes"].detach().aminmax()
    if not (low >= 0 and high <= 1):
        raise InputError(f"{where}: pred_boxes are in {low:g}..{high:g}, not in 0..1 of the unpadded image")


def rehearse_metric(path: str, dataset: CocoDetection) -> None:
    """Measure detections that are the first objects themselves."""
    where = f"evaluation.extra={path!r}"
    detections: list[dict[str, Any]] = []
    for image, boxes, labels in zip(dataset.images, dataset.boxes, dataset.labels, strict=True):
        for query, ((x, y, right, bottom), label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
            category = int(dataset.category_ids[label])
            found = {"image_id": image["id"], "category_id": category, "bbox": [x, y, right - x, bottom - y]}
            detections.append(found | {"score": 1.0, "query": query})
        if len(detections) >= NUM_DETECTIONS:
            break
    found = call("evaluation.extra", path, dataset.annotations, detections)
    if not isinstance(found, dict) or not all(isinstance(value, Real) for value in found.values()):
        raise InputError(f"{where}: must return {{name: number}}, not {found!r:.100}")
    for name in found:
        if (
            not isinstance(name, str)
            or name in (*STATS, "loss", "seconds")
            or name.startswith(("AP/", "ema/", "loss_"))
        ):
            raise InputError(f"{where}: the name {name!r} is taken or no text; choose another")
