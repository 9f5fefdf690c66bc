"""Pool of worker processes, one a run. They share nothing but run directories: one that dies takes none along."""

import signal
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from detr.errors import ExitCode
from experiments.definition.arms import Run
from experiments.folders.files import not_a_link
from experiments.folders.lease import owner
from experiments.launchers.base import Launcher, Process
from experiments.runs.display import Display
from experiments.runs.run_directory import RunDirectory
from experiments.runs.stop import Stop
from experiments.tracking.mirror import Uploader

POLL_SECONDS = 0.3


def run_workers(
    todo: list[Run], folder: Path, launcher: Launcher, console: Console, stop: Stop, uploader: Uploader
) -> None:
    """Keep as many workers busy as the launcher takes, and show their records, until all runs have ended."""
    told = False
    with Display(console, len(todo)) as display:
        workers = Workers(todo, folder, launcher, display, uploader)
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
    """Processes of some runs. A run that another command is training is followed like our own, and taken over if that
    command stops or dies.
    """

    def __init__(self, runs: list[Run], folder: Path, launcher: Launcher, display: Display, uploader: Uploader) -> None:
        for run in runs:
            worker_log(run.directory)  # one that is refused is refused before anything starts
        self.waiting = list(runs)
        self.folder, self.launcher, self.display, self.uploader = folder, launcher, display, uploader
        self.active: dict[Run, Process] = {}
        self.elsewhere: list[Run] = []
        self.stopping = False

    @property
    def busy(self) -> bool:
        """Whether a run has not ended."""
        return bool(self.waiting or self.active or self.elsewhere)

    def start(self) -> None:
        """Start as many runs as the launcher takes."""
        while self.waiting and len(self.active) < self.launcher.depth:
            run = self.waiting.pop(0)
            self.display.start(run.name, RunDirectory(run.directory))
            if holder := owner(run.directory):
                self.display.say(f"{run.name}  is being trained by {holder}")
                self.elsewhere.append(run)
            elif RunDirectory(run.directory).status["state"] == "finished":  # by another, since this command began
                self._finish(run)
            else:
                self.active[run] = self._start(run)

    def collect(self) -> None:
        """Show new records, and the states of the runs that ended."""
        for run, process in list(self.active.items()):
            ended = process.poll() is not None
            self.display.update(run.name, RunDirectory(run.directory))
            if ended:
                del self.active[run]
                if process.returncode == ExitCode.HELD and not self.stopping:  # another command was faster
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
        """Ask all workers to save and leave."""
        if not self.stopping:
            self.stopping = True
            self.waiting.clear()
            self.elsewhere.clear()
            for process in self.active.values():
                process.terminate()

    def _start(self, run: Run) -> Process:
        directory = RunDirectory.create(run, self.folder)
        module = ["experiments.runs.worker", str(directory.path)]
        return self.launcher.start(
            module, worker_log(directory.path), partial(self.display.update, run.name, directory)
        )

    def _finish(self, run: Run) -> None:
        status = RunDirectory(run.directory).status
        for warning in status.get("warnings", []):
            self.display.say(f"{run.name}  warning: {warning}")
        self.display.finish(run.name, status["state"], status.get("error", ""))
        self.uploader.folders.append(run.directory)


def worker_log(directory: Path) -> Path:
    """Log of a run's worker. InputError if it is a link."""
    return not_a_link(directory / "worker.log")


def mark_dead(directory: RunDirectory, code: int | None) -> None:
    """Mark a run as failed if its worker died without saying so and nobody else is training it."""
    silent = code != ExitCode.STOPPED and owner(directory.path) is None
    if silent and directory.status["state"] in ("planned", "running"):
        if code == -signal.SIGKILL:
            error = "the worker was killed, as systems do when memory runs out; the same command goes on"
        else:
            log = worker_log(directory.path).read_text(errors="replace").strip().splitlines()
            error = f"the worker died with code {code}: {log[-1] if log else 'no message'}"
        directory.update(state="failed", error=error)
