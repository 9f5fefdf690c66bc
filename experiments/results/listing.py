"""The ablations of a store, before one of them is read."""

import pandas as pd

from experiments import tracking
from experiments.results.runs import experiment, search
from experiments.store import Store

COLUMNS = ("run_id", "name", "label", "state", "started")


def list_ablations(store: Store) -> pd.DataFrame:
    """One row an ablation, newest first: run_id of the parent, name, label (unique, stays the same), state, started
    (UTC).
    """
    if (opened := experiment(store)) is None:
        return pd.DataFrame(columns=COLUMNS)
    client, place = opened
    rows = []
    for parent in search(client, place.experiment_id, f"tags.`{tracking.ABLATION}` != ''"):
        tags = parent.data.tags
        name = tags[tracking.ABLATION]
        started = pd.Timestamp(parent.info.start_time, unit="ms", tz="UTC")
        label = f"{name} {parent.info.run_id[:8]}"
        rows.append((parent.info.run_id, name, label, tags.get(tracking.STATE, "running"), started))
    return pd.DataFrame(rows, columns=COLUMNS)
