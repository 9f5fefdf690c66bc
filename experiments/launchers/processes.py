"""Launcher of processes on this machine: by default one a GPU, or without GPUs one a CPU core."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from detr.errors import InputError
from experiments.launchers.base import importable

MAX_CPU_WORKERS = 4  # by default


class Processes:
    """Launcher of subprocesses, each with GPUs and a share of the CPU cores of its own."""

    here = True
    farewell = "stopped; the same command goes on"

    def __init__(self, workers: int | None, num_processes: int) -> None:
        """num_processes: of one run, each with its GPU"""
        slots = worker_slots(workers, num_processes)
        self.width = self.depth = len(slots)
        self.environments = slots
        self.running: dict[int, subprocess.Popen] = {}

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> subprocess.Popen:
        """Start the process, in a session of its own so that Ctrl-C reaches us alone."""
        taken = [slot for slot, process in self.running.items() if process.poll() is None]
        slot = next(slot for slot in range(self.width) if slot not in taken)
        with log.open("a") as output:
            self.running[slot] = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=os.environ | self.environments[slot] | importable(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.running[slot]


def worker_slots(workers: int | None, num_processes: int = 1) -> list[dict[str, str]]:
    """Environment of each worker slot: its GPUs and its share of the CPU cores.

    By default there are as many slots as GPUs allow; without GPUs one a core, at most MAX_CPU_WORKERS.
    """
    cores, gpus = torch.get_num_threads(), torch.cuda.device_count()
    if gpus and num_processes > gpus:
        raise InputError(f"train.num_processes={num_processes}: this machine has {gpus} GPUs")
    count = workers or max(1, (gpus or min(cores, MAX_CPU_WORKERS)) // num_processes)
    slots = [{"OMP_NUM_THREADS": str(max(1, cores // (count * num_processes)))} for _ in range(count)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(gpus)]
    for i, slot in enumerate(slots):
        if gpus:
            own = [devices[(i * num_processes + k) % len(devices)] for k in range(num_processes)]
            slot["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return slots
