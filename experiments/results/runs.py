"""MLflow -> frames: the only reader of the store."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from experiments import tracking
from experiments.store import Store

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file that is read


@dataclass(frozen=True)
class AblationResults:
    """What the store holds of one ablation."""

    run_id: str  # of the parent
    design: dict[str, Any]  # name, question, factors, baseline, horizon, seeds, arms
    runs: pd.DataFrame  # one row a run: run_id, arm, seed, state, error, a column a factor, latest value of each metric
    params: dict[str, dict[str, str]] = field(default_factory=dict)  # run_id -> its flattened settings as texts

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of the runs that came to their end."""
        return self.runs[self.runs["state"] == "finished"]

    @property
    def planned(self) -> int:
        """Runs that the design asks for."""
        return len(self.design["arms"]) * len(self.design["seeds"])


def newest_ablation(store: Store, name: str | None = None) -> str | None:
    """Run id of the ablation that was started last, of any name or of this one; None where there is none."""
    if (opened := experiment(store)) is None:
        return None
    client, place = opened
    condition = f"tags.`{tracking.ABLATION}` = '{name}'" if name else f"tags.`{tracking.ABLATION}` != ''"
    found = client.search_runs([place.experiment_id], condition, max_results=1)
    return found[0].info.run_id if found else None


def run_directory(store: Store, run_id: str) -> Path:
    """Folder in which the ablation with this parent run keeps its runs."""
    tags = MlflowClient(store.tracking_uri).get_run(run_id).data.tags
    return Path(tags.get(tracking.RUN_DIRECTORY, store.run_root / run_id))


def load_ablation(store: Store, run_id: str) -> AblationResults:
    """The design and all runs of the ablation with this parent run."""
    client = MlflowClient(store.tracking_uri)
    parent = client.get_run(run_id)
    design = json.loads(_artifact(store, run_id, tracking.DESIGN).read_text())
    condition = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = search(client, parent.info.experiment_id, condition)
    order = {arm: i for i, arm in enumerate(design["arms"])}
    rows = [_row(child, design) for child in children if child.data.tags.get(tracking.ARM) in order]
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id", "arm", "seed", "state", "error"])
    if rows:
        frame = frame.drop_duplicates(["arm", "seed"])  # newest first: a run whose folder was lost was made anew
        frame = frame.sort_values(["arm", "seed"], key=lambda c: c.map(order) if c.name == "arm" else c)
    params = {child.info.run_id: dict(child.data.params) for child in children}
    return AblationResults(run_id, design, frame.reset_index(drop=True), params)


def load_annotations(store: Store, results: AblationResults) -> Path | None:
    """The validation annotations of the ablation, a COCO file; None where they were not stored."""
    return _find(store, results.run_id, tracking.ANNOTATIONS)


def load_predictions(store: Store, run_id: str) -> Path | None:
    """The detections of a run's last evaluation, a COCO results file; None where there are none."""
    return _find(store, run_id, tracking.PREDICTIONS)


def load_attention(store: Store, run_id: str) -> Path | None:
    """The attention maps of a run's last evaluation (`attention.read_attention`); None where there are none."""
    return _find(store, run_id, tracking.ATTENTION)


def earlier_runs(store: Store) -> pd.DataFrame:
    """All finished runs of all ablations, oldest first: run_id, arm, seed, fingerprint (of the data), val/AP, and a
    column a setting, as texts.
    """
    if (opened := experiment(store)) is None:
        return pd.DataFrame(columns=["run_id", "arm", "seed", "fingerprint", "val/AP"])
    client, place = opened
    condition = f"tags.`{tracking.STATE}` = 'finished' and metrics.`val/AP` >= 0"
    found = search(client, place.experiment_id, condition)
    rows = [
        {
            "run_id": run.info.run_id,
            "arm": run.data.tags.get(tracking.ARM),
            "seed": int(run.data.tags.get(tracking.SEED, 0)),
            "fingerprint": run.data.tags.get(tracking.FINGERPRINT),
            "val/AP": run.data.metrics["val/AP"],
            **{key: value for key, value in run.data.params.items() if key != "seed"},
        }
        for run in reversed(found)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run_id", "arm", "seed", "fingerprint", "val/AP"])


def experiment(store: Store) -> tuple[MlflowClient, Experiment] | None:
    """The experiment of ablations; None where nothing was run yet. A reader never creates the database."""
    if store.database and not store.database.exists():
        return None
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.ablations)
    return (client, experiment) if experiment else None


def search(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    """All runs that fulfil the condition, newest first."""
    page = client.search_runs([experiment_id], condition)
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], condition, page_token=page.token)
        found += page
    return found


def _row(run: Run, design: dict[str, Any]) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "arm": tags[tracking.ARM],
        "seed": int(tags[tracking.SEED]),
        "state": tags.get(tracking.STATE, "running"),
        "error": tags.get(tracking.ERROR, ""),
        **design["arms"][tags[tracking.ARM]],
        **run.data.metrics,
    }


def load_records(store: Store, run_id: str) -> pd.DataFrame:
    """One row a step: step, epoch, samples, seconds and a column a metric. From the run's own record file once it has
    ended, else from MLflow's histories.
    """
    try:
        lines = _artifact(store, run_id, tracking.RECORDS).read_text().splitlines()
    except (MlflowException, OSError):
        return _histories(store, run_id)
    records = [json.loads(line) for line in lines]
    rows = [{k: r[k] for k in ("step", "epoch", "samples", "seconds")} | r["metrics"] for r in records]
    return pd.DataFrame(rows).groupby("step", as_index=False).last()  # a step's evaluation joins its training record


def _histories(store: Store, run_id: str) -> pd.DataFrame:
    client = MlflowClient(store.tracking_uri)
    columns = {}
    for key in client.get_run(run_id).data.metrics:
        if not key.startswith("system/"):
            points = client.get_metric_history(run_id, key)
            columns[key.removeprefix("progress/")] = pd.Series({p.step: p.value for p in points})
    return pd.DataFrame(columns).rename_axis("step").reset_index()


def _find(store: Store, run_id: str, name: str) -> Path | None:
    try:
        path = _artifact(store, run_id, name)
    except (MlflowException, OSError):
        return None
    return path if path.is_file() else None


def _artifact(store: Store, run_id: str, name: str) -> Path:
    """Local path of an artifact, downloaded if it is remote."""
    uri = f"runs:/{run_id}/{name}"
    return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=store.tracking_uri))
