"""Everything that a run is made of, built from its config, and the part of its state that a resume needs."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from detr.checkpoint import load_official, read_weights
from detr.classification import build_classification
from detr.config import RunConfig
from detr.criterion import SetCriterion
from detr.data import CocoDetection, open_split
from detr.data.batch import collate
from detr.data.sampler import GroupingSampler, StreamSampler
from detr.distributed import check_device, data_parallel, raise_on_all_ranks, rank, world_size
from detr.errors import InputError
from detr.evaluation import coco_classes
from detr.extensions import call
from detr.horizon import parse_horizon
from detr.models import build_model
from detr.optim import optimizer_of
from detr.precision import grad_scaler, set_tf32
from detr.rehearsal import rehearse


@dataclass
class Progress:
    """State of a run beside model and optimiser. Random numbers are no state: those of a micro-batch follow from the
    seed and its number.
    """

    step: int = 0
    seconds: float = 0.0
    clipped: int = 0  # steps whose gradient was scaled down
    scale_sum: float = 0.0  # of min(1, clip_norm / norm) over the steps
    skipped: int = 0  # steps left out because their gradient overflowed in float16
    best_AP: float = -1.0
    best_ema_AP: float = -1.0
    evaluated: int = 0  # step of the last evaluation
    norms: list[float] = field(default_factory=list)  # of the gradients since then, for the diagnostics
    matching: torch.Tensor | None = None  # (N, Q) of that evaluation, likewise
    quarantined: dict[int, str] = field(default_factory=dict)  # training images that could not be read -> why


@dataclass
class Setup:
    """Data, model, loss and optimiser of a run."""

    config: RunConfig
    device: torch.device
    train_set: CocoDetection
    val_set: CocoDetection
    model: nn.Module
    criterion: SetCriterion
    replica: nn.Module  # the model as training runs it: compiled if train.compile, data parallel on several ranks
    optimizer: Optimizer
    scaler: GradScaler  # of the loss; it does nothing unless the precision is float16
    num_steps: int
    ema: AveragedModel | None  # moving average of the model's weights, if train.ema


def prepare(config: RunConfig) -> Setup:
    """Open the data, build the model, load its starting weights. InputError when something does not fit."""
    setup = raise_on_all_ranks(lambda: _prepare_on_this_rank(config))
    setup.replica = data_parallel(setup.model)
    if setup.config.train.compile:
        # Batches have many sizes; and dropout draws as it does without, whatever parts the graph has.
        compiled = torch.compile(setup.replica, dynamic=True, options={"fallback_random": True})
        setup.replica = cast(nn.Module, compiled)
    return setup


def _prepare_on_this_rank(config: RunConfig) -> Setup:
    config = replace(config, train=replace(config.train, num_processes=world_size()))
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    device = choose_device(config.train.device)
    check_device(device)
    if device.type == "cuda":
        set_tf32(config.train.precision == "tf32")
    elif config.train.precision == "tf32":
        raise InputError(f"train.precision='tf32' is a format of NVIDIA GPUs, and train.device is {device.type}")
    coco_classes(config.evaluation.backend)  # InputError if it is not installed
    if config.train.compile:
        check_compiler(device)
    train_set, val_set = open_split(config.data, "train", config.seed), open_split(config.data, "val")
    if train_set.names != val_set.names:
        raise InputError(f"{train_set.annotations} and {val_set.annotations} have different categories")
    num_classes = config.model.num_classes or train_set.num_classes
    if num_classes < train_set.num_classes:
        raise InputError(
            f"model.num_classes={num_classes}: the data has {train_set.num_classes}; set null to take that"
        )
    torch.manual_seed(config.seed)
    model = build_detector(config, num_classes).to(device)
    criterion = SetCriterion(num_classes, config.loss).to(device)
    rehearse(config, model, criterion, train_set, val_set, device)
    num_steps = parse_horizon(config.schedule.horizon).steps(
        len(train_set), config.train.batch_size * config.train.accumulate, config.schedule.full_epochs
    )
    return Setup(
        config,
        device,
        train_set,
        val_set,
        model,
        criterion,
        replica=model,
        optimizer=optimizer_of(model, config.optim),
        scaler=grad_scaler(device, config.train.precision),
        num_steps=num_steps,
        ema=AveragedModel(model) if config.train.ema else None,
    )


def build_detector(config: RunConfig, num_classes: int) -> nn.Module:
    """Build the configured model, DETR or the user's own, for so many classes, with its starting weights."""
    settings = replace(config.model, num_classes=num_classes)
    if settings.target:
        model = call("model.target", settings.target, settings, **(settings.options or {}))
        if not isinstance(model, nn.Module):
            raise InputError(f"model.target={settings.target!r}: gives {type(model).__name__}, not a torch.nn.Module")
    else:
        model = build_model(settings, build_classification(config.loss), config.train.checkpoint_activations)
    if settings.init_from:
        load_official(model, read_weights(settings.init_from))
    return model


def train_loader(setup: Setup, first_step: int) -> DataLoader:
    """Load this rank's micro-batches of all steps from `first_step` on, in one go: workers start once."""
    config = setup.config
    order: tuple[Any, ...] = (
        len(setup.train_set),
        config.train.batch_size,
        config.train.accumulate,
        config.seed,
        first_step,
        setup.num_steps,
        rank(),
        world_size(),
    )
    if config.train.grouping == "size":
        sampler: StreamSampler = GroupingSampler(setup.train_set.augmented_shape, *order)
    else:
        sampler = StreamSampler(*order)
    return DataLoader(
        setup.train_set,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.data.num_workers,
        pin_memory=setup.device.type == "cuda",
    )


def check_compiler(device: torch.device) -> None:
    """InputError when torch.compile cannot compile for the device."""
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # many kinds: no C++ compiler, no Triton, a GPU that is too old
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"train.compile=true cannot be used ({reason}): it takes a C++ compiler, and on GPUs Triton; install what "
            "is missing, or leave it out"
        ) from None


def choose_device(name: str) -> torch.device:
    """Choose the named device, or for "auto" the best there is. InputError when it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device={name!r} cannot be used ({str(error).splitlines()[0]})") from None
