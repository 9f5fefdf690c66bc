"""The ablations of a store, before one of them is read."""

import pandas as pd

from experiments.results.reading.reader import open_reader
from experiments.schema import names
from experiments.schema.store import Store

COLUMNS = ("run_id", "name", "label", "state", "started")


def list_ablations(store: Store) -> pd.DataFrame:
    """One row an ablation, newest first: run_id of the parent, name, label (unique, stays the same), state, started
    (UTC).
    """
    reader = open_reader(store)
    parents = reader.runs(store.ablations, {names.ABLATION: None}) if reader else []
    rows = [
        (
            run.run_id,
            run.tags[names.ABLATION],
            f"{run.tags[names.ABLATION]} {run.run_id[:8]}",
            run.tags.get(names.STATE, "running"),
            pd.Timestamp(run.started, unit="ms", tz="UTC"),
        )
        for run in parents
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
