"""The only module that writes to MLflow.

Everything comes from run directories and can be sent again: what MLflow has already is not sent twice.
"""

import contextlib
import logging
import platform
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from experiments.names import (  # noqa: F401 - those who write find the names here
    ABLATION,
    ANNOTATIONS,
    ARM,
    ATTENTION,
    CHECKPOINTS,
    CONFIG,
    DESIGN,
    EPOCH,
    ERROR,
    FAILURE,
    FILES,
    FINGERPRINT,
    NUM_STEPS,
    PREDICTIONS,
    RECORDS,
    REPORT,
    RUN_DIRECTORY,
    SAMPLES,
    SAMPLES_PICTURE,
    SECONDS,
    SEED,
    SEEDS,
    SPEC,
    STATE,
    STEP,
    STORAGE,
    STUDY,
    SWEEP,
)
from experiments.store import ROOT, Store, initialise

if TYPE_CHECKING:
    from experiments.rundir import RunDirectory

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table and monitor it sets up

STATUS = {
    "running": RunStatus.RUNNING,
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "stopped": RunStatus.KILLED,
    "pruned": RunStatus.KILLED,
}
BATCH = 1000  # metrics, MLflow's limit of one call


class Tracker:
    """The MLflow side of one ablation or sweep: its parent run and a child for every run.

    Runs go to the store's experiment of ablations unless another is named.
    """

    def __init__(self, store: Store, experiment: str | None = None) -> None:
        initialise(store)
        self.store = store
        self.experiment_name = experiment or store.ablations
        self.client = MlflowClient(store.tracking_uri)
        mlflow.set_tracking_uri(store.tracking_uri)  # the system metrics monitor takes no client

    def experiment(self, name: str) -> str:
        """Id of the experiment, created on first use."""
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        location = None
        if self.store.database:
            Path(self.store.artifact_root).mkdir(parents=True, exist_ok=True)
            location = Path(self.store.artifact_root).as_uri()
        try:
            return self.client.create_experiment(name, artifact_location=location)
        except MlflowException:  # another process was faster
            return self.client.get_experiment_by_name(name).experiment_id

    def open(self, run_id: str | None, name: str, tags: dict[str, str], parent: str | None = None) -> str:
        """The run with this id if MLflow still has it, else a new one; its id."""
        if run_id:
            with contextlib.suppress(MlflowException):
                self.client.get_run(run_id)
                return run_id
        tags = tags | environment_tags() | {MLFLOW_RUN_NAME: name}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        return self.client.create_run(self.experiment(self.experiment_name), run_name=name, tags=tags).info.run_id

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Log flattened settings; those that the run has already stay, since MLflow never changes a parameter."""
        known = self.client.get_run(run_id).data.params
        entries = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for i in range(0, len(entries), 100):
            self.client.log_batch(run_id, params=entries[i : i + 100])

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Set or change tags."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def note(self, run_id: str, text: str) -> None:
        """The description that MLflow's UI shows."""
        self.set_tags(run_id, {MLFLOW_RUN_NOTE: text})

    def close(self, run_id: str, state: str, error: str = "") -> None:
        """Set the run's state: running, finished, failed, stopped or pruned."""
        self.set_tags(run_id, {STATE: state, ERROR: error[:5000]})
        status = RunStatus.to_string(STATUS[state])
        if state == "running":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Upload a file if it exists."""
        if path.is_file():
            self.client.log_artifact(run_id, str(path), folder)

    @contextlib.contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Record CPU, memory, disk and GPU use while the block runs."""
        monitor = SystemMetricsMonitor(run_id, sampling_interval=10, resume_logging=True)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()


class MetricStream:
    """Sends the records of one run directory to MLflow, each (key, step) once."""

    def __init__(self, tracker: Tracker, run_id: str, directory: "RunDirectory") -> None:
        self.tracker, self.run_id, self.directory = tracker, run_id, directory
        self.offset = 0  # bytes of the records that were sent
        self.known: dict[str, int] = {}  # key -> last step that MLflow had before this stream
        for key in tracker.client.get_run(run_id).data.metrics:
            if not key.startswith("system/"):
                history = tracker.client.get_metric_history(run_id, key)
                self.known[key] = max(point.step for point in history)

    def send(self) -> None:
        """Send the records that came since the last call."""
        records, offset = self.directory.tail(self.offset)
        points = [point for record in records for point in self._points(record)]
        for i in range(0, len(points), BATCH):
            self.tracker.client.log_batch(self.run_id, metrics=points[i : i + BATCH])
        self.offset = offset

    def _points(self, record: dict[str, Any]) -> Iterator[Metric]:
        step, now = record["step"], int(time.time() * 1000)
        if NUM_STEPS not in self.known:
            yield Metric(NUM_STEPS, record["num_steps"], now, step)
            self.known[NUM_STEPS] = step
        values = record["metrics"]
        if any(key.startswith("train/") for key in values):  # an evaluation shares its step with a training record
            values = values | {
                STEP: step,
                EPOCH: record["epoch"],
                SAMPLES: record["samples"],
                SECONDS: record["seconds"],
            }
        for key, value in values.items():
            if step > self.known.get(metric_name(key), -1):
                yield Metric(metric_name(key), value, now, step)


def metric_name(key: str) -> str:
    """A class may be called anything; MLflow allows letters, digits and _ - . / : and space."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "_-./: " else "_" for c in key)


def environment_tags() -> dict[str, str]:
    """Git commit, machine and versions."""
    tags = {f"version.{name}": version(name) for name in ("torch", "torchvision", "mlflow", "numpy", "pycocotools")}
    tags |= {"version.python": platform.python_version(), "machine": platform.node()}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive
        options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
        tags[MLFLOW_GIT_COMMIT] = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
        tags["git.uncommitted_changes"] = str(bool(changed)).lower()
    return tags
