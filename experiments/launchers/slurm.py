"""Launcher of SLURM jobs through submitit: one job a worker, requeued when it is preempted or out of time.

A job lives longer than the command that submitted it. Beside the worker's log, NAME.log, lies NAME.job with the job's
number; the same command again recognises the job there, and collects from it. `squeue` tells which jobs there are:
accounting (sacct) is not installed everywhere.
"""

import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detr.errors import ExitCode, InputError
from experiments.launchers.base import importable

try:
    import submitit

    from experiments.launchers.slurm_task import Task, read_job, write_job

    HAS_SUBMITIT = True
except ImportError:  # an extra of its own
    HAS_SUBMITIT = False

REQUEUES = 1000  # after time limits; submitit gives up after three
MISSED_LOOKS = 2  # a job that squeue did not list so often has ended, and what it wrote can be seen here as well
JOBS = 16  # at the same time, by default
ARRAY = 1000  # SLURM's own limit, MaxArraySize, is 1001 by default


@dataclass(frozen=True)
class SlurmSettings:
    """Resources of a job; conf/launcher/slurm.yaml has the values and explains them."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    hours: float
    gpus: int
    cpus: int
    memory_gb: float | None
    processes_per_node: int
    setup: list
    sbatch: dict
    warning_seconds: int
    poll_seconds: float

    def __post_init__(self) -> None:
        positive = ("hours", "cpus", "processes_per_node", "warning_seconds", "poll_seconds")
        for name in (*positive, "memory_gb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"launcher.{name}={value!r}: must be positive")
        if self.gpus < 0:
            raise InputError(f"launcher.gpus={self.gpus!r}: must be 0 or more")
        if not all(isinstance(line, str) for line in self.setup):
            raise InputError(f"launcher.setup={self.setup!r}: must be a list of lines of shell")


class Slurm:
    """Launcher with a queue, which takes everything at once and runs `width` jobs at the same time."""

    here = False
    farewell = "the jobs go on in SLURM, where scancel ends them; the same command collects what they find"

    def __init__(self, settings: SlurmSettings, workers: int | None, num_processes: int, folder: Path) -> None:
        """num_processes: of one run. folder: of submitit's files, on storage that the nodes share"""
        if not HAS_SUBMITIT:
            raise InputError("launcher=slurm needs submitit: pip install -e '.[slurm]'")
        if not shutil.which("sbatch"):
            raise InputError("launcher=slurm: there is no sbatch here; start this where jobs are submitted")
        per_node = min(num_processes, settings.processes_per_node)
        if num_processes % per_node:
            raise InputError(
                f"train.num_processes={num_processes}: must be a multiple of launcher.processes_per_node={per_node}, "
                "so that every node of a run has as many"
            )
        self.settings, self.nodes, self.per_node, self.folder = settings, num_processes // per_node, per_node, folder
        self.width, self.depth = workers or JOBS, sys.maxsize
        self.queue = Queue(settings.poll_seconds)
        self.unsubmitted: list[Job] = []

    def start(self, module: list[str], log: Path, watch: Callable[[], None]) -> "Job":
        """Return the worker's job: the one that is in the queue already, or a new one."""
        job = Job(self, module, log)
        if job.number not in self.queue.numbers():
            self.unsubmitted.append(job)
        return job

    def submit(self) -> None:
        """Submit the jobs that were started since the last call, as arrays of at most ARRAY jobs."""
        jobs, self.unsubmitted = [job for job in self.unsubmitted if job.returncode is None], []
        for first in range(0, len(jobs), ARRAY):
            self._submit_array(jobs[first : first + ARRAY])

    def _submit_array(self, jobs: list["Job"]) -> None:
        executor = submitit.SlurmExecutor(self.folder, max_num_timeout=REQUEUES)
        executor.update_parameters(**self.parameters())
        try:
            with executor.batch():
                submitted = [executor.submit(Task(job.module, job.log)) for job in jobs]
        except submitit.core.utils.FailedJobError as error:
            said = [line for line in str(error).splitlines() if "sbatch: error" in line]
            raise InputError(f"launcher=slurm: {'; '.join(said) or error}") from None
        for job, entry in zip(jobs, submitted, strict=True):
            write_job(job.log, {"job": entry.job_id})
            job.look = self.queue.looks

    def parameters(self) -> dict[str, Any]:
        """Parameters from which submitit writes the head of a batch script."""
        settings = self.settings
        asked = {
            "gpus_per_node": settings.gpus * self.per_node or None,
            "mem": f"{math.ceil(1024 * settings.memory_gb)}MB" if settings.memory_gb else None,
            "partition": settings.partition,
            "account": settings.account,
            "qos": settings.qos,
            "constraint": settings.constraint,
        }
        return {name: value for name, value in asked.items() if value is not None} | {
            "job_name": "detr",
            "time": math.ceil(60 * settings.hours),
            "nodes": self.nodes,
            "ntasks_per_node": self.per_node,
            "cpus_per_task": settings.cpus,
            "array_parallelism": self.width,
            "signal_delay_s": settings.warning_seconds,
            "setup": [f"export PYTHONPATH={shlex.quote(importable()['PYTHONPATH'])}", *settings.setup],
            "additional_parameters": {"requeue": True} | settings.sbatch,
        }


class Job:
    """Job of a worker, with the interface of a process."""

    def __init__(self, launcher: Slurm, module: list[str], log: Path) -> None:
        self.launcher, self.module, self.log = launcher, module, log
        self.returncode: int | None = None
        self.look, self.missed = 0, 0

    @property
    def number(self) -> str | None:
        """Job number as SLURM shows it, "12" or "12_3"; None before there was a job."""
        return read_job(self.log).get("job")

    def poll(self) -> int | None:
        """Exit code of the worker, None while the job waits or runs; 1 for a job that vanished without one."""
        self.launcher.submit()
        queue = self.launcher.queue
        listed = self.number in queue.numbers()
        if self.returncode is None and queue.looks > self.look:
            self.look, self.missed = queue.looks, 0 if listed else self.missed + 1
            if self.missed >= MISSED_LOOKS:
                self.returncode = read_job(self.log).get("code", 1)
        return self.returncode

    def terminate(self) -> None:
        """Leave the job to SLURM."""
        self.returncode = ExitCode.STOPPED  # the job goes on without us, and can be collected later


class Queue:
    """Jobs of this user, as squeue last listed them."""

    def __init__(self, poll_seconds: float) -> None:
        self.poll_seconds, self.looks = poll_seconds, 0
        self._looked, self._numbers = -math.inf, frozenset[str]()

    def numbers(self) -> frozenset[str]:
        """Numbers of the jobs that wait, run, or are requeued. One look every `poll_seconds`, for all jobs."""
        if time.monotonic() - self._looked >= self.poll_seconds:
            self._looked = time.monotonic()
            options = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            try:
                done = subprocess.run(options, capture_output=True, text=True, timeout=60)
            except subprocess.TimeoutExpired:
                return self._numbers
            if done.returncode == 0:  # else the controller does not answer: what was there is taken to be there
                self._numbers = frozenset(done.stdout.split())
                self.looks += 1
        return self._numbers
