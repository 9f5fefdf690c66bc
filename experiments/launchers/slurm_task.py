"""Task that a SLURM job executes. Light, since its process waits beside the worker's for hours."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import submitit

from experiments.folders.files import not_a_link, write_json
from experiments.launchers.base import importable


class Task:
    """Callable of a job; submitit stores it, and calls `checkpoint` when SLURM warns."""

    def __init__(self, module: list[str], log: Path) -> None:
        self.module, self.log = module, log
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Run the worker, one of several if the job has several tasks."""
        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        log = self.log if job.global_rank == 0 else self.log.with_suffix(f".{job.global_rank}.log")
        with not_a_link(log).open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.module],
                env=os.environ | importable(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while self.process.poll() is None:  # wait() holds a lock that `checkpoint`, in a signal handler, would need
                time.sleep(0.2)
        if job.global_rank == 0:
            write_job(self.log, {"job": job.job_id, "code": self.process.returncode})

    def checkpoint(self) -> Any:
        """Let the worker save and leave; the job starts again with the same task."""
        if self.process:
            self.process.terminate()
            with suppress(ChildProcessError):  # it has ended already
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Task(self.module, self.log))


def job_file(log: Path) -> Path:
    """File with the number of the job that writes this log."""
    return log.with_suffix(".job")


def read_job(log: Path) -> dict[str, Any]:
    """Number of a job and, once it has ended, exit code of its worker; empty if there was no job."""
    try:
        content = json.loads(job_file(log).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_job(log: Path, content: dict[str, Any]) -> None:
    """Replace the file of a job in one step."""
    write_json(job_file(log), content)
