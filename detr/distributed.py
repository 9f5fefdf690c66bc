"""One run over several processes: gloo between CPUs, NCCL between GPUs, started by torchrun or by SLURM.

The processes deal out the micro-batches of every optimiser step and the batches of every validation, and add up what
they find. Random numbers and denominators do not depend on who computes a micro-batch, so the run is the same, but for
the rounding of sums, as with one process. The first process alone hands out records, logs and saves.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detr.errors import InputError, LostProcess

T = TypeVar("T")
# Longer than anything that the first process does alone: COCO metrics of six layers, a checkpoint, an upload.
TIMEOUT_MINUTES = 30.0
TIMEOUT_VARIABLE = "DETR_TIMEOUT_MINUTES"


@dataclass(frozen=True)
class Peers:
    """The processes of a run, seen from one of them. With a single process all methods return at once."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Peers":
        """Those that `join` brought together; this process alone where there was no `join`."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and saves."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process' part; the parts in the order of ranks are the whole."""
        return items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size]

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of ranks, for everybody."""
        values = [value] * self.size
        if self.size > 1:
            with lost_process():
                dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T]:
        """Everybody's value, in the order of ranks, for the first process; nothing for the others."""
        if self.size == 1:
            return [value]
        values = [value] * self.size if self.first else None
        with lost_process():
            dist.gather_object(value, values)
        return [value, *values[1:]] if values else []

    def tell(self, value: T) -> T:
        """The first process' value, for everybody."""
        if self.size == 1:
            return value
        values = [value]
        with lost_process():
            dist.broadcast_object_list(values)
        return values[0]

    def together(self, compute: Callable[[], T]) -> T:
        """Compute in every process. An InputError of one is raised in all, so that none waits for it."""
        value, fault = None, None
        try:
            value = compute()
        except InputError as error:
            fault = error
        faults = [other for other in self.gather(fault) if other]
        if faults:
            raise faults[0]
        return value

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            with lost_process():
                dist.all_reduce(values)
        return values

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model with gradients that are averaged over the processes, buckets at a time while others are computed.

        It shares its parameters with `model`. There are no buffers to synchronise: frozen norms do not change.
        """
        if self.size == 1:
            return model
        renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # by torch 2.14 or before
        options = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        with lost_process():
            return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def no_exchange(model: nn.Module) -> AbstractContextManager:
    """Within it gradients are added up in this process alone: for all micro-batches of a step but the last."""
    return getattr(model, "no_sync", nullcontext)()  # DDP's, which a compiled replica passes on


def launched() -> bool:
    """Whether torchrun, or what speaks its variables, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join() -> Iterator[Peers]:
    """Meet the other processes that were started with this one; without any, `Peers()`.

    A process that does not answer within DETR_TIMEOUT_MINUTES (30) counts as lost.
    """
    if not launched():
        yield Peers()
        return
    gpus, minutes = torch.cuda.device_count(), float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT_MINUTES))
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    rank, size, timeout = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(minutes=minutes)
    with lost_process():
        store = _new_section(rank, size, timeout)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield Peers.current()
    finally:
        dist.destroy_process_group()


def _new_section(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """A store that holds nothing yet, where the processes find each other.

    torchrun's own store outlives its restarts, so that a process may find the address of a dead one there (pytorch
    issue 135712). The first process therefore opens a section of a new name, and each other one that is alive now says
    which name it saw, under a name of its own, until the first has heard the right one.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, rank == 0 and not agent, timeout
    )
    name, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("section", name)
        waiting = set(range(1, size))
        while waiting:
            for other in list(waiting):
                seen, _, own = store.get(f"seen/{other}").decode().partition(" ")
                if seen == name:
                    store.set(f"heard/{own}", "")
                    waiting.remove(other)
            if time.monotonic() > deadline:
                raise LostProcess(f"the processes {sorted(waiting)} did not come within {timeout}")
            time.sleep(0.02)
        return dist.PrefixStore(name, store)
    while True:
        section = store.get("section").decode()
        store.set(f"seen/{rank}", f"{section} {name}")
        try:
            store.wait([f"heard/{name}"], timedelta(seconds=0.5))
            return dist.PrefixStore(section, store)
        except dist.DistStoreError:
            if time.monotonic() > deadline:
                raise LostProcess(f"the first process did not come within {timeout}") from None


def check_device(device: torch.device) -> None:
    """InputError when processes of this machine would have to share a GPU."""
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device.type == "cuda" and launched() and processes > gpus:
        raise InputError(f"{processes} processes cannot share {gpus} GPUs: start fewer, or set train.device=cpu")


@contextmanager
def lost_process() -> Iterator[None]:
    """Turn the errors that communication dies of into a LostProcess."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors that begin with a path of its source
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            reason = str(error).partition("] ")[2].partition(". ")[0] or str(error)
            raise LostProcess(f"another process of this run was lost ({reason})") from error
        raise
