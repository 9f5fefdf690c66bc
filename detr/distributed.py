"""One run over several processes (ranks): gloo between CPUs, NCCL between GPUs, started by torchrun or by SLURM.

The ranks deal out the micro-batches of every optimiser step and the batches of every validation, and add up their
results. Random numbers and denominators do not depend on the rank that computes a micro-batch, so the run is the same,
but for the rounding of sums, as with one process. Rank zero alone hands out records, logs and saves. With a single
process every function returns at once.
"""

import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detr.errors import InputError, LostProcess

T = TypeVar("T")
# Longer than anything that rank zero does alone: COCO metrics of six layers, a checkpoint, an upload.
TIMEOUT_MINUTES = 30.0
TIMEOUT_VARIABLE = "DETR_TIMEOUT_MINUTES"


def rank() -> int:
    """Number of this process within the run, 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_rank_zero() -> bool:
    """Whether this is the process that logs and saves."""
    return rank() == 0


def shard(items: Sequence[T], rank: int, world_size: int) -> Sequence[T]:
    """Part of the items that falls to a rank; the parts in the order of ranks are the whole."""
    return items[len(items) * rank // world_size : len(items) * (rank + 1) // world_size]


def all_gather(value: T) -> list[T]:
    """Collect every rank's value, in the order of ranks, on every rank."""
    values = [value] * world_size()
    if len(values) > 1:
        with lost_process():
            dist.all_gather_object(values, value)
    return values


def gather(value: T) -> list[T]:
    """Collect every rank's value, in the order of ranks, on rank zero; the others get an empty list."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size() if is_rank_zero() else None
    with lost_process():
        dist.gather_object(value, values)
    return [value, *values[1:]] if values else []


def broadcast(value: T) -> T:
    """Give rank zero's value to every rank."""
    if world_size() == 1:
        return value
    values = [value]
    with lost_process():
        dist.broadcast_object_list(values)
    return values[0]


def all_reduce(values: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if world_size() > 1:
        with lost_process():
            dist.all_reduce(values)
    return values


def barrier() -> None:
    """Wait for rank zero."""
    broadcast(None)


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block on rank zero, and then on the others."""
    if not is_rank_zero():
        barrier()
    yield
    if is_rank_zero():
        barrier()


def raise_on_all_ranks(compute: Callable[[], T]) -> T:
    """Compute on every rank. An InputError of one is raised on all, so that none waits for it."""
    try:
        value, fault = compute(), None
    except InputError as error:
        value, fault = None, error
    for other in all_gather(fault):
        if other:
            raise other
    return cast(T, value)


def in_lockstep(items: Generator[T, None, None]) -> Iterator[T]:
    """Iterate on every rank for as long as rank zero's consumer does; on closing, `items` is closed first."""
    with closing(items):
        for item in items:
            try:
                yield item
            except GeneratorExit:
                items.close()
                broadcast(False)
                raise
            if not broadcast(True):
                return


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap the model so that gradients are averaged over the ranks, buckets at a time while others are computed.

    The wrapper shares its parameters with `model`. There are no buffers to synchronise: frozen norms do not change.
    """
    if world_size() == 1:
        return model
    renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # by torch 2.14 or before
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    with lost_process():
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Add up gradients on this rank alone: for all micro-batches of a step but the last."""
    return getattr(model, "no_sync", nullcontext)()  # DDP's, which a compiled replica passes on


def launched() -> bool:
    """Whether torchrun, or what speaks its variables, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that were started with this one, if any, for the duration of the block.

    A process that does not answer within DETR_TIMEOUT_MINUTES (30) counts as lost.
    """
    if not launched():
        yield
        return
    gpus, minutes = torch.cuda.device_count(), float(os.environ.get(TIMEOUT_VARIABLE, TIMEOUT_MINUTES))
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    number, count, timeout = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(minutes=minutes)
    with lost_process():
        store = _new_section(number, count, timeout)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _new_section(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """Open a store that holds nothing yet, where the processes find each other.

    torchrun's own store outlives its restarts, so that a process may find the address of a dead one there (pytorch
    issue 135712). Rank zero therefore opens a section of a new name, and each other rank that is alive now says which
    name it saw, under a name of its own, until rank zero has heard the right one.
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
                raise LostProcess(f"rank zero did not come within {timeout}") from None


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
