"""Runs in worker processes on this machine. They share nothing but run directories: one that dies takes none along."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from experiments.design import Run
from experiments.display import Display
from experiments.lease import HELD, owner
from experiments.rundir import RunDirectory
from experiments.store import ROOT
from experiments.uploader import Uploader
from experiments.worker import Stop

POLL_SECONDS = 0.3
MAX_CPU_WORKERS = 4


def run_workers(
    todo: list[Run], folder: Path, num_workers: int | None, console: Console, stop: Stop, uploader: Uploader
) -> None:
    """Keep as many workers busy as the machine takes, and show their records, until all runs have ended."""
    told = False
    with Display(console, len(todo)) as display:
        workers = Workers(todo, folder, worker_slots(num_workers), display, uploader)
        while workers.busy:
            if stop.requested:
                workers.stop()
            workers.start()
            time.sleep(POLL_SECONDS)
            workers.collect()
            if uploader.fault and not told:
                console.print(f"MLflow gets everything later, it cannot be reached: {uploader.fault}", markup=False)
                told = True


class Workers:
    """The processes of some runs. A run that another command is training is followed like our own, and taken over if
    that one stops or dies.
    """

    def __init__(
        self, runs: list[Run], folder: Path, slots: dict[int, dict[str, str]], display: Display, uploader: Uploader
    ) -> None:
        self.waiting = list(runs)
        self.folder, self.slots, self.display, self.uploader = folder, slots, display, uploader
        self.active: dict[Run, tuple[int, subprocess.Popen]] = {}
        self.elsewhere: list[Run] = []
        self.stopping = False

    @property
    def busy(self) -> bool:
        """Whether a run has not ended."""
        return bool(self.waiting or self.active or self.elsewhere)

    def start(self) -> None:
        """Start what the machine takes."""
        while self.waiting and len(self.active) < len(self.slots):
            run = self.waiting.pop(0)
            self.display.start(run.name, RunDirectory(run.directory))
            if holder := owner(run.directory):
                self.display.say(f"{run.name}  is being trained by {holder}")
                self.elsewhere.append(run)
            else:
                used = [slot for slot, _ in self.active.values()]
                slot = next(slot for slot in self.slots if slot not in used)
                self.active[run] = slot, start_worker(run, self.folder, self.slots[slot])

    def collect(self) -> None:
        """Show the records that came, and how runs ended."""
        for run, (_, process) in list(self.active.items()):
            ended = process.poll() is not None
            self.display.update(run.name, RunDirectory(run.directory))
            if ended:
                del self.active[run]
                if process.returncode == HELD and not self.stopping:  # another command was faster
                    self.waiting.append(run)
                else:
                    mark_dead(RunDirectory(run.directory), process.returncode)
                    self._finish(run)
        for run in list(self.elsewhere):
            self.display.update(run.name, RunDirectory(run.directory))
            if owner(run.directory) is None:
                self.elsewhere.remove(run)
                if RunDirectory(run.directory).status["state"] in ("finished", "failed"):
                    self._finish(run)
                else:
                    self.waiting.append(run)

    def stop(self) -> None:
        """Ask all workers once to save and leave: a second signal would interrupt that."""
        if not self.stopping:
            self.stopping = True
            self.waiting.clear()
            self.elsewhere.clear()
            for _, process in self.active.values():
                process.terminate()

    def _finish(self, run: Run) -> None:
        status = RunDirectory(run.directory).status
        for warning in status.get("warnings", []):
            self.display.say(f"{run.name}  warning: {warning}")
        self.display.finish(run.name, status["state"], status.get("error", ""))
        self.uploader.folders.append(run.directory)


def start_worker(run: Run, folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Write the run's directory and start its worker."""
    directory = RunDirectory.create(run, folder)
    return spawn(["experiments.worker", str(directory.path)], directory.path / "worker.log", environment)


def spawn(module: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start `python -m module...`, in a session of its own so that Ctrl-C reaches us alone."""
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            env=os.environ | environment | path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def mark_dead(directory: RunDirectory, code: int) -> None:
    """Mark a run failed whose worker died without a word."""
    if directory.status["state"] in ("planned", "running"):
        if code == -signal.SIGKILL:
            error = "the worker was killed, as systems do when memory runs out; the same command goes on"
        else:
            log = (directory.path / "worker.log").read_text(errors="replace").strip().splitlines()
            error = f"the worker died with code {code}: {log[-1] if log else 'no message'}"
        directory.update(state="failed", error=error)


def worker_slots(workers: int | None) -> dict[int, dict[str, str]]:
    """Environment of each worker slot: its GPU and its share of the CPU cores.

    By default one slot a GPU; without GPUs one a core, at most four.
    """
    cores, gpus = torch.get_num_threads(), torch.cuda.device_count()
    count = workers or gpus or min(cores, MAX_CPU_WORKERS)
    slots = {i: {"OMP_NUM_THREADS": str(max(1, cores // count))} for i in range(count)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(gpus)]
    for i, slot in slots.items():
        if devices and gpus:
            slot["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]
    return slots
