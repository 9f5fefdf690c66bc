"""Short trials of a set-up: can the model overfit a few images, and does loading or computing set the pace?"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from detr.config import RunConfig
from detr.data import CocoDetection
from detr.data.batch import Batch, batches, pad_samples
from detr.errors import InputError
from detr.setup import Progress, Setup, prepare, train_loader
from detr.step import NonFiniteLoss, train_step

OVERFIT_IMAGES = 8
# Bound in units of the first loss: models that saw black images stayed at 0.65 to 0.75 (docs/doctor.md).
OVERFIT_RATIO = 0.4
SPEED_SECONDS = 3.0  # of measuring, for every figure
WORTH_A_PROCESS = 1.05  # speed-up from which more workers are recommended


@dataclass(frozen=True)
class Overfit:
    """Outcome of learning a few images by heart."""

    images: int
    steps: int  # done
    max_steps: int
    lr: float
    loss_before: float
    loss_after: float
    seconds: float

    @property
    def rule(self) -> str:
        """State the rule that decides."""
        return f"the loss falls to {OVERFIT_RATIO:.0%} of the first one within {self.max_steps} steps"

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return math.isfinite(self.loss_after) and self.loss_after <= OVERFIT_RATIO * self.loss_before


def overfit(config: RunConfig, max_steps: int, lr: float, advance: Callable[[], None] = lambda: None) -> Overfit:
    """Train on the 8 images with the fewest objects but none, without augmentation and dropout, at a constant `lr`.

    Few objects keep it short: it is a test of the set-up, not of how hard the data is. Stops as soon as the rule holds.
    InputError when training refuses the data.
    """
    setup = prepare(
        replace(
            config,
            model=replace(config.model, dropout=0.0),
            data=replace(config.data, augmentation="none"),
            optim=replace(config.optim, lr=lr),
            train=replace(config.train, diagnostics=False),
        )
    )
    counts = [len(labels) for labels in setup.train_set.labels]
    chosen = sorted((i for i, n in enumerate(counts) if n), key=counts.__getitem__)[:OVERFIT_IMAGES]
    if not chosen:
        raise InputError(f"{setup.train_set.annotations}: no image has an object to learn")
    micro_batches = list(_micro_batches(setup.train_set, chosen, config.train.batch_size))
    progress, begin = Progress(), time.monotonic()
    losses: list[float] = []
    while len(losses) <= max_steps:  # the loss at index i is that after i steps
        try:
            losses.append(train_step(setup, progress, micro_batches)["train/loss"])
        except NonFiniteLoss:
            losses = [*(losses or [math.inf]), math.inf]
            break
        advance()
        if losses[-1] <= OVERFIT_RATIO * losses[0]:
            break
    return Overfit(
        len(chosen), len(losses) - 1, max_steps, lr, losses[0], losses[-1], round(time.monotonic() - begin, 1)
    )


def _micro_batches(dataset: CocoDetection, chosen: list[int], size: int) -> Iterator[Batch]:
    for first in range(0, len(chosen), size):
        yield pad_samples([dataset[0, index] for index in chosen[first : first + size]])


@dataclass(frozen=True)
class Speed:
    """Images a second of loading and of computing, and the number of workers that follows."""

    loading: dict[int, float]  # by number of worker processes
    computing: float
    together: dict[int, float]  # expected of training, by number of worker processes
    num_workers: int  # recommended

    @property
    def limit(self) -> str:
        """Name the part that sets the pace with the recommended workers."""
        return "loading" if self.loading[self.num_workers] < self.computing else "computing"


def measure_speed(config: RunConfig, workers: int, seconds: float = SPEED_SECONDS) -> Speed:
    """Measure loading without and with worker processes, and a training step, each for some seconds."""
    setup = prepare(replace(config, train=replace(config.train, diagnostics=False)))
    loading = {n: _loading(setup, n, seconds) for n in sorted({0, workers})}
    computing = _computing(setup, seconds)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads() if setup.device.type == "cpu" else 1
    together = {}
    for n, rate in loading.items():
        beside = n > 0 and n + used <= cores  # else the workers take their time from the computing
        together[n] = min(rate, computing) if beside else 1 / (1 / rate + 1 / computing)
    best = max(together, key=together.__getitem__)
    recommended = next(n for n in together if together[n] * WORTH_A_PROCESS >= together[best])
    return Speed(loading, computing, together, recommended)


def _loading(setup: Setup, workers: int, seconds: float) -> float:
    """Measure images a second, once the workers run and their queues are full."""
    config = setup.config
    endless = replace(setup, config=replace(config, data=replace(config.data, num_workers=workers)), num_steps=10**9)
    stream = batches(train_loader(endless, 0))
    for _ in range(1 + 2 * workers):  # a DataLoader prefetches two batches a worker
        next(stream)
    begin, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - begin < seconds:
        images += len(next(stream).targets)
    return images / (time.perf_counter() - begin)


def _computing(setup: Setup, seconds: float) -> float:
    """Measure images a second of training steps on one batch that is there already, by the median step."""
    config = setup.config.train
    stream = batches(train_loader(replace(setup, num_steps=1), 0))
    micro_batches = [next(stream) for _ in range(config.accumulate)]
    progress = Progress()
    durations: list[float] = []
    train_step(setup, progress, micro_batches)  # the first one also allocates
    begin = time.perf_counter()
    while not durations or time.perf_counter() - begin < seconds:
        before = time.perf_counter()
        train_step(setup, progress, micro_batches)  # ends with the loss on the host: nothing is left running
        durations.append(time.perf_counter() - before)
    return config.batch_size * config.accumulate / statistics.median(durations)
