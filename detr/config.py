"""All settings of one training run, and the only home of their defaults.

The defaults are the official DETR (ResNet-50 on COCO). Every class checks its values on construction and raises
InputError naming the setting, the value and the remedy. A `target` names a user's own part as "package.module:name",
and `options` are further keywords that it is called with (docs/extending.md).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from detr.audit import COCO_AREA_LIMITS
from detr.errors import InputError, require
from detr.extensions import check_path
from detr.horizon import parse_horizon

CheckpointActivations = Literal["none", "backbone", "all"]


def _check_choices(config: object, section: str) -> None:
    """InputError when a field that is a Literal holds none of its choices."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            choices, value = get_args(hint), getattr(config, name)
            require(value in choices, f"{section}.{name}", value, f"choose from {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class ModelConfig:
    """The detector. Names follow the paper."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "small"] = "resnet50"
    dilation: bool = False  # DC5: layer4 keeps layer3's resolution by dilation (resnet50 and resnet101)
    pretrained: bool | str = True  # True: torchvision's IMAGENET1K_V1; a path: that state dict; False: random
    backbone_width: int = 32  # channels of the small backbone's first stage, doubled at each later one
    backbone_stride: Literal[8, 16] = 8  # pixels per feature cell of the small backbone
    backbone_norm: Literal["group", "batch"] = "group"  # norm of the small backbone
    position_embedding: Literal["sine", "learned"] = "sine"
    hidden_dim: int = 256  # width d of the transformer
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1  # in attention weights, feed-forward and residuals
    norm: Literal["post", "pre"] = "post"  # layer norm after each residual sum, or before each sublayer
    num_queries: int = 100  # detections per image
    num_classes: int | None = 91  # without no-object; None: as many as the data set has
    init_from: str | None = None  # a checkpoint with official names to start from (fine-tuning)
    target: str | None = None  # own model: called with this ModelConfig and the options, returns the module
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_choices(self, "model")
        check_path("model.target", self.target, self.options)
        for name in ("hidden_dim", "num_heads", "num_decoder_layers", "dim_feedforward", "num_queries"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be at least 1")
        require(self.num_encoder_layers >= 0, "model.num_encoder_layers", self.num_encoder_layers, "must be 0 or more")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be in [0, 1)")
        require(
            self.hidden_dim % self.num_heads == 0 and self.hidden_dim % 4 == 0,
            "model.hidden_dim",
            self.hidden_dim,
            f"must divide by model.num_heads={self.num_heads} and by 4 (sine and cosine of y and x)",
        )
        require(
            self.num_classes is None or self.num_classes >= 1,
            "model.num_classes",
            self.num_classes,
            "must be at least 1, or null to take it from the data",
        )
        require(
            not self.dilation or self.backbone in ("resnet50", "resnet101"),
            "model.dilation",
            self.dilation,
            f"only resnet50 and resnet101 have a DC5 variant, not {self.backbone}",
        )
        require(
            self.backbone != "small" or self.pretrained is not True,
            "model.pretrained",
            True,
            "there are no published weights of the small backbone; set model.pretrained=false or a path",
        )
        require(
            self.backbone_width >= 8 and self.backbone_width % 8 == 0,
            "model.backbone_width",
            self.backbone_width,
            "must be a multiple of 8 (the groups of the norm)",
        )

    @property
    def has_batch_norm(self) -> bool:
        """Whether norms keep running statistics of the batches."""
        return self.backbone == "small" and self.backbone_norm == "batch"


@dataclass(frozen=True)
class LossConfig:
    """Costs of the matching and weights of the losses."""

    # softmax: exclusive classes and a no-object column. focal: a sigmoid for each class, of which one query may show
    # several; published with weight_ce=2 and cost_class=2, which are settings of their own
    classification: Literal["softmax", "focal"] = "softmax"
    cost_class: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    weight_ce: float = 1.0
    weight_bbox: float = 5.0
    weight_giou: float = 2.0
    no_object_weight: float = 0.1  # softmax: class weight of no-object in the cross-entropy
    aux_loss: bool = True  # the same losses on every decoder layer

    def __post_init__(self) -> None:
        _check_choices(self, "loss")
        for name, value in vars(self).items():
            require(isinstance(value, str) or value >= 0, f"loss.{name}", value, "must not be negative")
        costs = self.cost_class, self.cost_bbox, self.cost_giou
        require(any(costs), "loss.cost_*", costs, "at least one matching cost must be positive")
        require(
            self.classification == "softmax" or self.no_object_weight == LossConfig.no_object_weight,
            "loss.no_object_weight",
            self.no_object_weight,
            f"loss.classification={self.classification} has no no-object column; leave it out, or take softmax",
        )


@dataclass(frozen=True)
class DataConfig:
    """Data set, and the way of an image to the model.

    Relative paths of annotations and image folders start at `root`.
    """

    name: Literal["coco", "shapes"] = "coco"  # format: the module detr.data.<name> reads it
    target: str | None = None  # own format instead: called with this DataConfig, "train" or "val", and the options
    options: dict[str, Any] | None = None
    root: str = "datasets/coco"
    train_annotations: str = "annotations/instances_train2017.json"
    val_annotations: str = "annotations/instances_val2017.json"
    train_images: str = "train2017"
    val_images: str = "val2017"
    labels: Literal["contiguous", "raw"] = "contiguous"  # 0..K-1 in order of id, or COCO's own ids as DETR has them
    augmentation: Literal["official", "light", "none"] = "official"
    transform: str | None = None  # own augmentation instead, as package.module:name: called with this DataConfig
    image_size: int = 800  # pixels of the shorter side in validation; training scales are in proportion to it
    max_size: int = 1333  # pixels that the longer side may reach
    num_workers: int = 2  # loading processes; 0 loads in the training process
    verify_images: bool = True  # decode every image once before the first training on it
    quarantine_share: float = 0.001  # of the training images that may become unreadable in mid-training; then it stops
    shapes_image_size: int = 64  # pixels; this and the following describe the drawn scenes
    shapes_num_train: int = 4000
    shapes_num_val: int = 300
    shapes_seed: int = 0

    def __post_init__(self) -> None:
        _check_choices(self, "data")
        check_path("data.target", self.target, self.options)
        check_path("data.transform", self.transform)
        for name in ("image_size", "max_size", "shapes_num_train", "shapes_num_val"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be at least 1")
        require(self.shapes_image_size >= 32, "data.shapes_image_size", self.shapes_image_size, "must be at least 32")
        require(
            self.max_size >= self.image_size, "data.max_size", self.max_size, f"is below image_size={self.image_size}"
        )
        require(0 <= self.quarantine_share < 1, "data.quarantine_share", self.quarantine_share, "must be in [0, 1)")
        require(self.shapes_seed >= 0, "data.shapes_seed", self.shapes_seed, "must be 0 or more")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "must be 0 or more")


@dataclass(frozen=True)
class GroupRule:
    """Learning rate and weight decay of the parameters whose name the pattern is found in.

    Each of the two is taken from the first rule that matches the name and states it.
    """

    pattern: str  # regular expression, searched anywhere in a parameter's name
    lr_ratio: float | None = None  # lr in units of optim.lr; 0 freezes
    weight_decay: float | None = None
    name: str | None = None  # of the group in logs; null: rule<i>

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(f"optim.groups: pattern={self.pattern!r}: no regular expression ({error})") from None
        for key in ("lr_ratio", "weight_decay"):
            value = getattr(self, key)
            require(value is None or value >= 0, f"optim.groups: {key}", value, "must not be negative")
        named = self.name is None or re.fullmatch(r"\w+", self.name)
        require(bool(named), "optim.groups: name", self.name, "must be letters, digits and underscores")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, its parameter groups, and clipping by the global norm."""

    lr: float = 1e-4  # peak, of everything without a ratio of its own
    backbone_lr_ratio: float = 0.1  # the backbone's lr in units of `lr`, the last of all rules; 0 freezes it
    weight_decay: float = 1e-4  # of everything without a weight decay of its own
    groups: tuple[GroupRule, ...] = ()  # rules by parameter name
    clip_norm: float = 0.1  # bound of the norm over all gradients; 0 turns clipping off (norms are still logged)
    target: str | None = None  # own optimiser instead of AdamW: called with the parameter groups and the options
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "must be positive")
        for name in ("backbone_lr_ratio", "weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must not be negative")
        names = [rule.name for rule in self.groups if rule.name]
        fit = len({*names, "main", "backbone"}) == len(names) + 2
        require(fit, "optim.groups: name", names, "must differ from each other, and from main and backbone")
        check_path("optim.target", self.target, self.options)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate's shape over the run, and the run's length.

    Shapes are given in fractions of the run, so that a shorter run has the same shape.
    """

    shape: Literal["step", "warmup_cosine", "constant"] = "step"
    full_epochs: float = 500.0  # epochs of the published schedule: the meaning of horizon=full
    horizon: str = "full"  # length of this run: "full", "25 epochs", "600 steps", "36000 samples" or "5 %" of full
    drop_at: float = 0.8  # step: where lr falls to drop_factor (400 of 500 epochs)
    drop_factor: float = 0.1
    warmup: float = 0.05  # warmup_cosine: linear rise from floor to 1 (5 of 100 epochs)
    flat_until: float = 0.4  # warmup_cosine: then constant (35 epochs), then a cosine to floor (60 epochs)
    floor: float = 0.01  # warmup_cosine: first and last lr in units of the peak

    def __post_init__(self) -> None:
        _check_choices(self, "schedule")
        require(self.full_epochs > 0, "schedule.full_epochs", self.full_epochs, "must be positive")
        parse_horizon(self.horizon)
        for name in ("drop_at", "drop_factor", "warmup", "flat_until", "floor"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"schedule.{name}", value, "is a fraction: must be in [0, 1]")
        flat = f"exceeds schedule.flat_until={self.flat_until}"
        require(self.warmup <= self.flat_until, "schedule.warmup", self.warmup, flat)


@dataclass(frozen=True)
class TrainConfig:
    """The loop: batches, precision, evaluation and checkpoints."""

    batch_size: int = 2  # images per micro-batch
    accumulate: int = 32  # micro-batches per optimiser step; the effective batch is their product
    # of images into micro-batches: size puts images of like height and width together, among 32 micro-batches or those
    # of a step, which saves half of the padding or more (docs/performance.md)
    grouping: Literal["none", "size"] = "none"
    num_processes: int = 1  # of one run, a GPU each; they deal out the micro-batches, and change nothing else
    # of the forward pass; matching and losses stay float32. tf32 is float32 whose factors NVIDIA's GPUs round to 10
    # bits; float16 scales the loss, and leaves out the steps whose gradient overflows
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    device: str = "auto"  # "auto": cuda, then mps, then cpu; or a torch device
    num_threads: int = 0  # CPU threads of torch; 0 leaves its default
    evaluations: int = 10  # validations in the course of the run, evenly spaced; the last one is at its end
    checkpoint_minutes: float = 10.0  # between checkpoints; there is one at every evaluation as well
    diagnostics: bool = True  # log the signals that explain a run (docs/diagnostics.md); they do not change it
    probe_images: int = 16  # validation images, always the same, on which diagnostics look at the attention
    update_ratio_steps: int = 200  # optimiser steps from one measurement of the size of the updates to the next
    # training's forward and backward pass by torch.compile: for GPUs; a minute or more passes before the first step
    compile: bool = False
    # activations that the backward pass computes again, to save memory for time: those of the backbone's stages, or
    # those of the encoder's and decoder's layers too
    checkpoint_activations: CheckpointActivations = "none"
    # decay of a moving average of the weights, which is evaluated beside them (as val/ema/AP); 0 keeps none. It rises
    # to this value as (1 + step) / (10 + step), so that short runs do not average over their first weights
    ema: float = 0.0

    def __post_init__(self) -> None:
        _check_choices(self, "train")
        counts = ("batch_size", "accumulate", "num_processes", "evaluations", "probe_images", "update_ratio_steps")
        for name in counts:
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "must be at least 1")
        require(
            self.accumulate % self.num_processes == 0,
            "train.num_processes",
            self.num_processes,
            f"must divide train.accumulate={self.accumulate}, the micro-batches of a step that processes deal out; the "
            f"effective batch of {self.batch_size * self.accumulate} may be made of smaller and more micro-batches",
        )
        require(0 <= self.ema < 1, "train.ema", self.ema, "must be in [0, 1), as 0.9999")
        require(self.num_threads >= 0, "train.num_threads", self.num_threads, "must be 0 or more")
        require(self.checkpoint_minutes > 0, "train.checkpoint_minutes", self.checkpoint_minutes, "must be positive")


@dataclass(frozen=True)
class EvaluationConfig:
    """COCO evaluation."""

    area_limits: tuple[float, float] = COCO_AREA_LIMITS  # px^2 of the original image: small | medium | large
    batch_size: int = 8
    pad_to: int = 1  # images are padded alone to a multiple of this; 0 pads to the batch's largest, as official DETR
    # of the metrics: both give the same figures, faster-coco-eval sooner, if its package is installed
    backend: Literal["pycocotools", "faster-coco-eval"] = "pycocotools"
    # own metrics, as package.module:name: called with the annotation file and the detections after each evaluation,
    # returns {name: number}, logged as val/<name>
    extra: str | None = None

    def __post_init__(self) -> None:
        _check_choices(self, "evaluation")
        check_path("evaluation.extra", self.extra)
        low, high = self.area_limits
        require(0 < low < high, "evaluation.area_limits", self.area_limits, "must be two rising areas in px^2")
        require(self.batch_size >= 1, "evaluation.batch_size", self.batch_size, "must be at least 1")
        require(self.pad_to >= 0, "evaluation.pad_to", self.pad_to, "must be 0 or more")


@dataclass(frozen=True)
class RunConfig:
    """One run: one arm with one seed."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0  # of weights, data order, augmentation and dropout

    @property
    def own_parts(self) -> list[str]:
        """Dotted paths of the user's own parts."""
        sections = (self.model.target, self.data.target, self.data.transform, self.optim.target, self.evaluation.extra)
        return [path for path in sections if path]

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be in [0, 2**32)")
        require(
            self.train.num_processes == 1 or not self.model.has_batch_norm,
            "model.backbone_norm",
            self.model.backbone_norm,
            "its running statistics would differ between processes; set group, or train.num_processes=1",
        )
        require(
            self.train.checkpoint_activations == "none" or not self.model.has_batch_norm,
            "train.checkpoint_activations",
            self.train.checkpoint_activations,
            "computing features twice would update the running statistics of model.backbone_norm=batch twice",
        )
        require(
            self.train.checkpoint_activations == "none" or self.model.target is None,
            "train.checkpoint_activations",
            self.train.checkpoint_activations,
            f"model.target={self.model.target} is not built of our layers: call torch.utils.checkpoint in its forward",
        )
