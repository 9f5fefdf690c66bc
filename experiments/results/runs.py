"""MLflow -> frames: the only reader of the store."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from experiments import tracking
from experiments.store import Store


@dataclass(frozen=True)
class AblationResults:
    """What the store holds of one ablation."""

    run_id: str  # of the parent
    design: dict[str, Any]  # name, question, factors, baseline, horizon, seeds, arms
    runs: pd.DataFrame  # one row a run: run_id, arm, seed, state, error, a column a factor, latest value of each metric


def newest_ablation(store: Store, name: str | None = None) -> str | None:
    """Run id of the ablation that was started last, of any name or of this one; None where there is none."""
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.ablations)
    if experiment is None:
        return None
    condition = f"tags.`{tracking.ABLATION}` = '{name}'" if name else f"tags.`{tracking.ABLATION}` != ''"
    found = client.search_runs([experiment.experiment_id], condition, max_results=1)
    return found[0].info.run_id if found else None


def load_ablation(store: Store, run_id: str) -> AblationResults:
    """The design and all runs of the ablation with this parent run."""
    client = MlflowClient(store.tracking_uri)
    parent = client.get_run(run_id)
    design = json.loads(_artifact(store, run_id, tracking.DESIGN).read_text())
    condition = f"tags.`mlflow.parentRunId` = '{run_id}'"
    page = client.search_runs([parent.info.experiment_id], condition)
    children = list(page)
    while page.token:
        page = client.search_runs([parent.info.experiment_id], condition, page_token=page.token)
        children += page
    order = {arm: i for i, arm in enumerate(design["arms"])}
    rows = [_row(child, design) for child in children if child.data.tags.get(tracking.ARM) in order]
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id", "arm", "seed", "state", "error"])
    if rows:
        frame = frame.sort_values(["arm", "seed"], key=lambda c: c.map(order) if c.name == "arm" else c)
    return AblationResults(run_id, design, frame.reset_index(drop=True))


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


def _artifact(store: Store, run_id: str, name: str) -> Path:
    """Local path of an artifact, downloaded if it is remote."""
    uri = f"runs:/{run_id}/{name}"
    return Path(mlflow.artifacts.download_artifacts(uri, tracking_uri=store.tracking_uri))
