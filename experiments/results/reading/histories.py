"""Histories of chosen metrics over many runs: only what a figure shows is read."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments.results.figures.curves import Records
from experiments.results.reading.ablations import something_to_find
from experiments.results.reading.reader import require_reader
from experiments.schema.store import Store


def load_history(store: Store, run_ids: Sequence[str], metric: str) -> pd.DataFrame:
    """All points of one metric, by run and step: run_id (categorical), step, time (milliseconds since 1970), value.

    Infinite values are infinite and NaN is NaN; only the -1 of an AP with nothing to find is left out.
    """
    frame = require_reader(store).history(run_ids, metric)
    keep = something_to_find(frame[["value"]].rename(columns={"value": metric}))[metric].notna() | frame["value"].isna()
    return frame[keep].reset_index(drop=True)


def as_records(histories: Mapping[str, pd.DataFrame], runs: pd.DataFrame) -> Records:
    """Histories by metric -> one frame a run, by step: step and a column a metric, `progress/` taken off its name.

    runs:  run_id, arm, seed
    """
    columns = [
        frame.set_index(["run_id", "step"])["value"].rename(metric.removeprefix("progress/"))
        for metric, frame in histories.items()
        if metric != "progress/step" and len(frame)
    ]
    if not columns:
        return {}
    names = {run["run_id"]: (run["arm"], int(run["seed"])) for run in runs.to_dict("records")}
    together = pd.concat(columns, axis=1).sort_index().reset_index("step")
    by_run = together.groupby(level="run_id", observed=True)
    return {names[str(key)]: frame.reset_index(drop=True) for key, frame in by_run if str(key) in names}


def not_finite(histories: Mapping[str, pd.DataFrame], runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run and metric with values that are NaN or infinite: arm, seed, metric, values, first (step)."""
    found = []
    for metric, frame in histories.items():
        odd = frame[~np.isfinite(frame["value"])]
        by_run = odd.groupby("run_id", observed=True)["step"].agg(["size", "min"]).reset_index()
        found.append(by_run.assign(metric=metric))
    columns = {"size": "values", "min": "first"}
    rows = pd.concat(found) if found else pd.DataFrame(columns=["run_id", "metric", *columns])
    joined = rows.astype({"run_id": str}).merge(runs[["run_id", "arm", "seed"]], on="run_id").rename(columns=columns)
    return joined[["arm", "seed", "metric", "values", "first"]]


def all_points(histories: Mapping[str, pd.DataFrame], runs: pd.DataFrame) -> pd.DataFrame:
    """Every point of the histories for an export: arm, seed, metric, step, value, as they were logged."""
    rows = pd.concat([frame.assign(metric=metric) for metric, frame in histories.items()])
    joined = rows.astype({"run_id": str}).merge(runs[["run_id", "arm", "seed"]], on="run_id")
    return joined[["arm", "seed", "metric", "step", "value"]]
