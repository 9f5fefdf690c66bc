"""What each of two processes does for test_distributed.py: `one_of_two.py FOLDER SCENARIO ...`.

FOLDER/SCENARIO holds config.json; what this process finds there goes to rank-0.pt or rank-1.pt.
"""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detr.config import RunConfig
from detr.config_io import from_dict
from detr.distributed import is_rank_zero, process_group, rank, shard, world_size
from detr.errors import InputError, LostProcess
from detr.setup import Progress, prepare
from detr.step import NonFiniteLoss, train_step
from detr.train import train

torch.set_num_threads(1)


def step(config: RunConfig, folder: Path) -> dict[str, Any]:
    """One step on this process' share of the micro-batches that the test made."""
    setup = prepare(config)
    micro_batches = shard(torch.load(folder / "micro_batches.pt", weights_only=False), rank(), world_size())
    gradient: dict[str, torch.Tensor] = {}
    setup.optimizer.register_step_pre_hook(
        lambda *_: gradient.update({name: p.grad.clone() for name, p in setup.model.named_parameters()})
    )
    metrics = train_step(setup, Progress(), micro_batches)
    return {"metrics": metrics, "gradient": gradient, "weights": setup.model.state_dict()}


def run(config: RunConfig, folder: Path) -> dict[str, Any]:
    """A run that is closed after its first three records and goes on."""
    records = []
    for count in (3, None):
        session = train(config, folder)
        records += [asdict(record) for record in itertools.islice(session, count)]
        session.close()
    return {"records": records}


def fault(config: RunConfig, folder: Path) -> dict[str, Any]:
    """A run that ends with an error in one of the processes."""
    try:
        return {"records": len(list(train(config, folder)))}
    except (InputError, NonFiniteLoss) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def loss(how: signal.Signals) -> Callable[[RunConfig, Path], dict[str, Any]]:
    """A run whose second process gets a signal after three records."""

    def lose(config: RunConfig, folder: Path) -> dict[str, Any]:
        session = train(config, folder)
        list(itertools.islice(session, 3))
        if not is_rank_zero():
            os.kill(os.getpid(), how)
        try:
            list(session)
        except LostProcess as error:
            return {"error": str(error)}
        return {}

    return lose


SCENARIOS = {
    "step": step, "run": run, "fault": fault, "killed": loss(signal.SIGKILL), "frozen": loss(signal.SIGSTOP)
}  # fmt: skip

if __name__ == "__main__":
    with process_group():
        for name in sys.argv[2:]:
            folder = Path(sys.argv[1], name)
            config = from_dict(RunConfig, json.loads((folder / "config.json").read_text()))
            found = SCENARIOS[name.partition("-")[0]](config, folder)
            torch.save(found, folder / f"rank-{rank()}.pt")
            if "killed" in name or "frozen" in name:
                os._exit(0)  # there is nobody to take leave of
