"""Trained detector from a checkpoint file, with its image sizes, classes and device."""

import argparse
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from detr.checkpoint import load_official, read_weights
from detr.classification import Classification, Softmax, build_classification
from detr.coco_names import COCO_NAMES, NUM_LABELS
from detr.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig
from detr.config_io import from_dict
from detr.data.coco import load_annotations
from detr.data.shapes import CLASSES
from detr.data.transforms import build_transform, normalize
from detr.errors import InputError
from detr.inference.architecture import infer_model_config
from detr.models import DETR, build_model
from detr.postprocess import postprocess
from detr.setup import choose_device

log = logging.getLogger(__name__)
LabelMapping = Literal["raw", "contiguous"]  # labels are category ids, or count them


class Category(NamedTuple):
    """Category that a label stands for."""

    id: int  # in the annotations
    name: str


@dataclass(frozen=True)
class Detector:
    """Model in evaluation mode and the settings it was trained with, as far as they are known."""

    model: DETR
    model_config: ModelConfig
    data: DataConfig
    evaluation: EvaluationConfig
    device: torch.device
    run: RunConfig | None  # of the run that wrote the checkpoint

    @property
    def num_classes(self) -> int:
        """Number of classes without no-object."""
        assert self.model_config.num_classes is not None  # `open_detector` takes it from the weights
        return self.model_config.num_classes

    @torch.inference_mode()
    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Detect on a uint8 image (3, h, w); the result is on the CPU, the best detection first.

        It has scores (N,), labels (N,), boxes (N, 4) xyxy in the image's pixels, and query (N,), as `postprocess`.
        The image goes through the transform of validation, alone and without padding.
        """
        size = (image.shape[-2], image.shape[-1])
        nothing = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size)
        target = {"boxes": nothing, "labels": torch.zeros(0, dtype=torch.int64)}
        resized, _ = build_transform(self.data, train=False)(tv_tensors.Image(image), target)
        padding_mask = torch.zeros(1, *resized.shape[-2:], dtype=torch.bool, device=self.device)
        images = normalize(resized.as_subclass(Tensor)[None].to(self.device), padding_mask)
        result = postprocess(self.model(images, padding_mask), [size], self.model.classification)[0]
        order = result["scores"].argsort(descending=True, stable=True)
        return {key: value[order].cpu() for key, value in result.items()}


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `open_detector`. Their defaults come from the run, the checkpoint, or the official DETR."""
    known = "default: of the run's config.json, else"
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="official .pth, or .safetensors")
    parser.add_argument(
        "--num-heads", type=int, metavar="N", help=f"attention heads ({known} as saved with it, else 8)"
    )
    parser.add_argument(
        "--dilation",
        action=argparse.BooleanOptionalAction,
        help=f"the model is a DC5 one ({known} as saved with it, else not)",
    )
    parser.add_argument("--image-size", type=int, metavar="PX", help=f"shorter side ({known} 800)")
    parser.add_argument("--max-size", type=int, metavar="PX", help=f"limit of the longer side ({known} 1333)")
    parser.add_argument(
        "--labels", choices=("raw", "contiguous"), help=f"labels are category ids, or count them ({known} what fits)"
    )
    parser.add_argument("--device", default="auto", help="torch device (default: cuda, then mps, then cpu)")


def open_detector(options: argparse.Namespace) -> Detector:
    """Load the detector that the options name; InputError if checkpoint and options do not fit.

    options:  of `add_checkpoint_arguments`
    """
    path: Path = options.checkpoint
    state, run = read_weights(path), read_run_config(path)
    classification = build_classification(run.loss) if run else Softmax()
    model_config = _model_config(options, state, run, classification)
    sizes = {k: getattr(options, k) for k in ("image_size", "max_size") if getattr(options, k) is not None}
    if "image_size" in sizes and "max_size" not in sizes:  # the official proportion of the two
        sizes["max_size"] = round(sizes["image_size"] * 1333 / 800)
    data = replace(run.data if run else DataConfig(), **sizes)
    device = choose_device(options.device)
    model = build_model(model_config, classification)
    try:
        fresh = load_official(model, state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if fresh:
        raise InputError(f"{path}: its class head is not for the {model_config.num_classes} classes of its config.json")
    evaluation = run.evaluation if run else EvaluationConfig()
    return Detector(model.to(device).eval(), model_config, data, evaluation, device, run)


def _model_config(
    options: argparse.Namespace, state: dict[str, Tensor], run: RunConfig | None, classification: Classification
) -> ModelConfig:
    """Architecture by the options, else by the run, else by the checkpoint."""
    if run:
        num_classes = run.model.num_classes or infer_model_config(state, classification=classification).num_classes
        config = replace(run.model, pretrained=False, init_from=None, num_classes=num_classes)
    else:
        path = options.checkpoint
        saved = _saved_arguments(path)
        config = infer_model_config(state, options.num_heads or saved.get("nheads", 8))
        config = replace(config, dilation=bool(saved.get("dilation", False)))
        if "dc5" in path.name.lower() and options.dilation is None and not config.dilation:
            log.warning("%s: the name says DC5, which the weights do not tell: give --dilation if it is one", path)
    return replace(
        config, **{k: getattr(options, k) for k in ("num_heads", "dilation") if getattr(options, k) is not None}
    )


def read_run_config(checkpoint: Path) -> RunConfig | None:
    """Read the configuration of the run that wrote a .safetensors file: config.json beside it or beside `checkpoints/`.

    None if there is none, or one of another program.
    """
    folder = checkpoint.absolute().parent
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    path = folder / "config.json"
    if checkpoint.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not (isinstance(content, dict) and {"model", "data", "train"} <= content.keys()):
        return None
    try:
        return from_dict(RunConfig, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _saved_arguments(path: Path) -> dict[str, Any]:
    """Options that the official training script saves with its checkpoints; empty for other files.

    path:  a file that `read_weights` has accepted
    """
    if path.suffix == ".safetensors":
        return {}
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    arguments = content.get("args")
    return vars(arguments) if isinstance(arguments, argparse.Namespace) else {}


def read_categories(annotations: Path) -> dict[int, str]:
    """Names by category id of a COCO annotation file, in order of id."""
    return {c["id"]: c["name"] for c in sorted(load_annotations(annotations)["categories"], key=lambda c: c["id"])}


def label_mapping(detector: Detector, categories: dict[int, str], chosen: LabelMapping | None) -> LabelMapping:
    """Mapping of labels to category ids: as chosen, else as in the run, else the one that the class head's size fits.

    InputError if the size fits neither, or not the one chosen.
    """
    num_classes, highest = detector.num_classes, max(categories, default=0)
    mapping = chosen or (detector.run.data.labels if detector.run else None)
    if mapping is None:
        if num_classes == highest + 1:
            mapping = "raw"
        elif num_classes == len(categories):
            mapping = "contiguous"
        else:
            raise InputError(
                f"the model has {num_classes} classes, the annotations {len(categories)} with ids up to {highest}: "
                "give --labels raw if the model was trained on category ids, else other annotations"
            )
    if mapping == "contiguous" and num_classes != len(categories):
        raise InputError(
            f"labels=contiguous: the model has {num_classes} classes, the annotations have {len(categories)}"
        )
    if mapping == "raw" and num_classes <= highest:
        raise InputError(f"labels=raw: the model has {num_classes} classes, the annotations have ids up to {highest}")
    return mapping


def label_categories(detector: Detector, annotations: Path | None, labels: LabelMapping | None) -> dict[int, Category]:
    """Label -> category: of the annotation file, else of the run's data, else COCO's for 91 classes.

    Empty if the names are unknown.
    """
    run = detector.run
    if annotations is None and run and run.data.name == "coco":
        own = Path(run.data.root) / run.data.val_annotations
        annotations = own if own.is_file() else None
    if annotations is not None:
        categories = read_categories(annotations)
    elif run and run.data.name == "shapes":
        categories = dict(enumerate(CLASSES, start=1))
    elif detector.num_classes == NUM_LABELS:
        categories = COCO_NAMES
    else:
        return {}
    raw = label_mapping(detector, categories, labels) == "raw"
    return {(id_ if raw else label): Category(id_, name) for label, (id_, name) in enumerate(categories.items())}
