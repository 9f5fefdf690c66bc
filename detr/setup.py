"""What a run works with, made from its settings, and what of its state a resume needs."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import AdamW
from torch.utils.data import DataLoader

from detr.checkpoint import load_official, read_weights
from detr.config import RunConfig
from detr.criterion import SetCriterion
from detr.data import CocoDetection, open_split
from detr.data.batch import collate
from detr.data.sampler import GroupingSampler, StreamSampler
from detr.distributed import Peers, check_device
from detr.errors import InputError
from detr.evaluation import coco_classes
from detr.heap import keep_freed_memory
from detr.horizon import parse_horizon
from detr.models import build_model
from detr.optim import build_optimizer
from detr.precision import grad_scaler, set_tf32


@dataclass
class Progress:
    """The part of a run's state beside model and optimiser that a resume needs. Random numbers are no state: those of a
    micro-batch follow from the seed and its number.
    """

    step: int = 0
    seconds: float = 0.0
    clipped: int = 0  # steps whose gradient was scaled down
    scale_sum: float = 0.0  # of min(1, clip_norm / norm) over the steps
    skipped: int = 0  # steps left out because their gradient overflowed in float16
    best_AP: float = -1.0
    evaluated: int = 0  # step of the last evaluation
    norms: list[float] = field(default_factory=list)  # of the gradients since then, for the diagnostics
    matching: torch.Tensor | None = None  # (N, Q) of that evaluation, likewise
    quarantined: dict[int, str] = field(default_factory=dict)  # training images that could not be read -> why


@dataclass
class Setup:
    """Everything that a run works with."""

    config: RunConfig
    device: torch.device
    train_set: CocoDetection
    val_set: CocoDetection
    model: nn.Module
    criterion: SetCriterion
    replica: nn.Module  # the model as training runs it: compiled if train.compile, as one of several processes
    optimizer: AdamW
    scaler: GradScaler  # of the loss; it does nothing unless the precision is float16
    num_steps: int
    peers: Peers


def prepare(config: RunConfig) -> Setup:
    """Open the data, build the model, load its starting weights. InputError when something does not fit."""
    peers = Peers.current()
    setup = peers.together(lambda: _prepare_alone(config, peers))
    setup.replica = peers.replicate(setup.model)
    if setup.config.train.compile:
        # Batches have many sizes; and dropout draws as it does without, whatever parts the graph has.
        setup.replica = torch.compile(setup.replica, dynamic=True, options={"fallback_random": True})
    return setup


def _prepare_alone(config: RunConfig, peers: Peers) -> Setup:
    config = replace(config, train=replace(config.train, num_processes=peers.size))
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    device = choose_device(config.train.device)
    check_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        set_tf32(config.train.precision == "tf32")
    elif config.train.precision == "tf32":
        raise InputError(f"train.precision='tf32' is a format of NVIDIA GPUs, and train.device is {device.type}")
    coco_classes(config.evaluation.backend)  # whether it is there
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
    model = build_model(replace(config.model, num_classes=num_classes))
    if config.model.init_from:
        load_official(model, read_weights(config.model.init_from))
    model.to(device)
    optim = config.optim
    optimizer = build_optimizer(model, optim.lr, optim.lr * optim.backbone_lr_ratio, optim.weight_decay)
    num_steps = parse_horizon(config.schedule.horizon).steps(
        len(train_set), config.train.batch_size * config.train.accumulate, config.schedule.full_epochs
    )
    criterion = SetCriterion(num_classes, config.loss).to(device)
    scaler = grad_scaler(device, config.train.precision)
    return Setup(config, device, train_set, val_set, model, criterion, model, optimizer, scaler, num_steps, peers)


def train_loader(setup: Setup, first_step: int) -> DataLoader:
    """Micro-batches of all steps from `first_step` on, in one go: workers start once."""
    config = setup.config
    order = (
        len(setup.train_set),
        config.train.batch_size,
        config.train.accumulate,
        config.seed,
        first_step,
        setup.num_steps,
        setup.peers,
    )
    if config.train.grouping == "size":
        sampler = GroupingSampler(setup.train_set.augmented_shape, *order)
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
    """The named device, or for "auto" the best there is. InputError when it cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros((), device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"train.device={name!r} cannot be used ({str(error).splitlines()[0]})") from None
