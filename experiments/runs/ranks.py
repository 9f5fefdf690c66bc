"""Processes of one run: the first does what a single process would, the others train what it trains."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from detr.distributed import broadcast, is_rank_zero, launched, process_group, world_size
from detr.errors import InputError
from detr.step import NonFiniteLoss
from detr.train import train
from experiments.runs.run_directory import RunDirectory
from experiments.runs.stop import Stop

# torchrun passes them on to the processes: the first then saves, and all leave
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"
SAVE_SECONDS = "120"  # for a step and a checkpoint, until torchrun kills


def lead(main: Callable[[], int]) -> int:
    """Run `main` in the first of the processes that were started together, while the others assist; returns its exit
    code. A single process is the first.
    """
    if world_size() > 1:  # met already: a run within the command that runs it
        return main()
    with process_group():
        if not is_rank_zero():
            return assist()
        code = main()
        broadcast(None)
        return code


def assist() -> int:
    """Train every run that the first process trains, until it has no more. Signals are for the first to answer."""
    with Stop().listen():
        while (path := broadcast(None)) is not None:
            with suppress(InputError, NonFiniteLoss):  # the first process meets the same, and says so
                for _ in train(RunDirectory(Path(path)).config, Path(path)):
                    pass
    return 0


def become(num_processes: int, module: list[str]) -> None:
    """Replace a single process by torchrun if the run is to have several; torchrun starts them."""
    if num_processes == 1 or launched():
        return
    options = ["--standalone", "--nproc-per-node", str(num_processes), "--signals-to-handle", SIGNALS]
    options += ["--shutdown-timeout", SAVE_SECONDS, "-m", *module]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *options])
