"""MLflow client: the only module that writes to MLflow. `experiments.tracking.upload` decides what is written."""

import contextlib
import logging
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from experiments.schema.names import (
    EPOCH,
    ERROR,
    NUM_STEPS,
    RUN_DIRECTORY,
    SAMPLES,
    SECONDS,
    STATE,
    STEP,
    stored_metric,
)
from experiments.schema.record import RecordLine
from experiments.schema.store import ROOT, Store
from experiments.tracking.database import initialise

NOTE = MLFLOW_RUN_NOTE  # tag: the description that MLflow's UI shows
VARIABLES = {
    # A server that does not answer holds up one thread for 20 s, and not, as MLflow has it, for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
PROGRESS = {EPOCH: "epoch", SAMPLES: "samples", SECONDS: "seconds"}  # metric -> key of a record
STATUS = {
    "running": RunStatus.RUNNING,
    "finished": RunStatus.FINISHED,
    "failed": RunStatus.FAILED,
    "stopped": RunStatus.KILLED,
    "pruned": RunStatus.KILLED,
}
BATCH = 1000  # metrics, MLflow's limit of one call
SENT_STEPS = 500  # of training, of every run; MLflow's UI draws 320


def configure_mlflow() -> None:
    """Set timeouts and log levels of MLflow for this process and those it starts. Entry points call it, no import does.

    Variables that the user has set stay.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs every table and monitor that it sets up
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it logs every attempt; the uploader says what came of it


class Tracker:
    """Client of an MLflow store: runs with parameters, metrics, tags and files. Every method may be called twice: the
    second call changes nothing.
    """

    def __init__(self, store: Store) -> None:
        initialise(store)
        self.store = store
        self.client = MlflowClient(store.tracking_uri)

    def experiment(self, name: str) -> str:
        """Id of the experiment, created on first use."""
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        try:
            return self.client.create_experiment(name, artifact_location=self.store.artifact_uri)
        except MlflowException:  # another process was faster, or the store has a fault
            if found := self.client.get_experiment_by_name(name):
                return found.experiment_id
            raise

    def knows(self, run_id: str) -> bool:
        """Whether there is a run with this id that was not deleted."""
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE
        except MlflowException as error:
            absent = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
            if error.error_code in absent:
                return False
            raise

    def create(self, experiment: str, name: str, tags: dict[str, str], parent: str | None) -> str:
        """Create a run for the directory that the tags name; returns its id.

        A run that was created for it already, and whose id a kill or a lost reply kept from us, is taken instead.
        """
        place = self.experiment(experiment)
        tags = tags | {MLFLOW_RUN_NAME: name} | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
        if not self._nameless(place, tags):
            self.client.create_run(place, run_name=name, tags=tags)
        first, *doubles = self._nameless(place, tags)
        for double in doubles:
            self.client.delete_run(double)
        return first

    def _nameless(self, experiment_id: str, tags: dict[str, str]) -> list[str]:
        """Ids of the runs of a directory and parent that have no state yet, oldest first."""
        quote = "'" if '"' in tags[RUN_DIRECTORY] else '"'
        condition = f"tags.`{RUN_DIRECTORY}` = {quote}{tags[RUN_DIRECTORY]}{quote}"
        found = self.client.search_runs([experiment_id], condition, order_by=["attributes.start_time"])
        same = [run for run in found if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == tags.get(MLFLOW_PARENT_RUN_ID)]
        return [run.info.run_id for run in same if STATE not in run.data.tags]

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        """Log flattened settings; those that the run has already stay, since MLflow never changes a parameter."""
        known = self.client.get_run(run_id).data.params
        entries = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for i in range(0, len(entries), 100):
            self.client.log_batch(run_id, params=entries[i : i + 100])

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        """Set or change tags."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_metrics(self, run_id: str, metrics: list[Metric]) -> None:
        """Log at most BATCH metrics; those that MLflow has with the same step, time and value are not doubled."""
        self.client.log_batch(run_id, metrics=metrics)

    def close(self, run_id: str, state: str, error: str = "") -> None:
        """Set the run's state: running, finished, failed, stopped or pruned."""
        self.set_tags(run_id, {STATE: state, ERROR: error[:5000]})
        status = RunStatus.to_string(STATUS[state])
        if state == "running":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Upload a file; one that MLflow has is replaced."""
        self.client.log_artifact(run_id, str(path), folder)


def points(line: RecordLine) -> Iterator[Metric]:
    """Metrics of a journal's line, with its time: sent again they are the same to MLflow, and not doubled.

    Of the steps of training, SENT_STEPS at equal distances up to the last one are sent, the first one, and those with
    diagnostics: a point costs MLflow 0.1 ms, and no curve shows more. The journal has all.
    """
    step, values = line.step, line.metrics
    training = [key.startswith("train/") for key in values]
    if any(training):  # an evaluation shares its step with a training record
        assert line.num_steps is not None  # every line of training has it
        before, now = (n * SENT_STEPS // max(line.num_steps, SENT_STEPS) for n in (step - 1, step))
        if all(training) and before == now and step != 1:
            return
        values = {**values, STEP: step} | {key: float(getattr(line, name)) for key, name in PROGRESS.items()}
        if step == 1:
            values[NUM_STEPS] = float(line.num_steps)
    for key, value in values.items():
        yield Metric(stored_metric(key), value, int(line.time * 1000), step)


def environment_tags() -> dict[str, str]:
    """Tags with Git commit, machine and versions."""
    tags = {f"version.{name}": version(name) for name in ("torch", "torchvision", "mlflow", "numpy", "pycocotools")}
    tags |= {"version.python": platform.python_version(), "machine": platform.node()}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository: an unpacked archive
        tags[MLFLOW_GIT_COMMIT] = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
        tags["git.uncommitted_changes"] = str(bool(changed)).lower()
    return tags


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
