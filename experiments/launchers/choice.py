"""Choice of the launcher by the configuration."""

from pathlib import Path
from typing import Any

from detr.config_io import from_dict
from detr.distributed import launched
from detr.errors import InputError
from experiments.launchers.base import Launcher
from experiments.launchers.local import Local
from experiments.launchers.processes import Processes
from experiments.launchers.slurm import Slurm, SlurmSettings


def build_launcher(launcher: dict[str, Any], workers: int | None, num_processes: int, run_root: Path) -> Launcher:
    """Build the launcher that a configuration asks for; InputError if its settings do not fit together.

    launcher:       its `launcher`: name and settings
    num_processes:  of one run, its `train.num_processes`

    Below torchrun runs go one after the other in the processes that it started: they are all that a run gets.
    """
    settings = dict(launcher)
    name = settings.pop("name")
    if launched() and name == "slurm":
        raise InputError("launcher=slurm: not below torchrun; it starts the processes of a run itself")
    if launched() or name == "local":
        if workers not in (None, 1):
            raise InputError(f"workers={workers}: with launcher=local and below torchrun runs go one after the other")
        if num_processes > 1 and not launched():
            raise InputError(
                f"train.num_processes={num_processes}: launcher=local has one process; start it by "
                f"torchrun --nproc-per-node {num_processes} experiments/run.py ..."
            )
        return Local()
    if name == "slurm":
        return Slurm(from_dict(SlurmSettings, settings, "launcher"), workers, num_processes, run_root / "slurm")
    return Processes(workers, num_processes)
