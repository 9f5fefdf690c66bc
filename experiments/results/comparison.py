"""Any runs of any experiment side by side: in which settings they differ, and what came of it."""

from collections.abc import Sequence

import pandas as pd

from experiments.results.reading.ablations import something_to_find
from experiments.results.reading.reader import StoredRun, open_reader
from experiments.schema import names
from experiments.schema.store import Store

ABSENT = "–"  # of a setting that a run does not have


def all_runs(store: Store) -> list[StoredRun]:
    """Every run of the store that has settings or metrics, newest first; parents of ablations and sweeps have none."""
    reader = open_reader(store)
    return [run for run in reader.runs() if run.params or run.metrics] if reader else []


def groups(store: Store) -> dict[str, str]:
    """run_id of a parent -> what it is called: the name of its ablation or sweep and the start of its id."""
    reader = open_reader(store)
    found = {}
    for tag in (names.ABLATION, names.SWEEP):
        for run in reader.runs(tags={tag: None}) if reader else []:
            found[run.run_id] = f"{run.tags[tag]} {run.run_id[:8]}"
    return found


def group_of(run: StoredRun, known: dict[str, str]) -> str:
    """The ablation or sweep of a run, else its experiment."""
    return known.get(run.tags.get(names.PARENT, ""), run.experiment)


def matching(runs: Sequence[StoredRun], words: str) -> list[StoredRun]:
    """Runs in which every word is found: in the name, the state, or a setting written as key=value."""
    wanted, texts = words.lower().split(), [_text(run) for run in runs]
    return [run for run, text in zip(runs, texts, strict=True) if all(word in text for word in wanted)]


def run_frame(runs: Sequence[StoredRun], known: dict[str, str]) -> pd.DataFrame:
    """One row a run: run_id, run (its name), of (`group_of`), state, started (UTC)."""
    rows = [
        (run.run_id, _name(run), group_of(run, known), _state(run), pd.Timestamp(run.started, unit="ms", tz="UTC"))
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["run_id", "run", "of", "state", "started"])


def differing_settings(runs: Sequence[StoredRun]) -> pd.DataFrame:
    """One row a run, a column each setting that is not the same in all of them, as texts; index as the runs."""
    keys = dict.fromkeys(key for run in runs for key in run.params)
    columns = {key: [run.params.get(key, ABSENT) for run in runs] for key in keys}
    return pd.DataFrame(
        {key: values for key, values in columns.items() if len(set(values)) > 1}, index=range(len(runs))
    )


def metric_frame(runs: Sequence[StoredRun], metrics: Sequence[str]) -> pd.DataFrame:
    """One row a run, a column a metric with its latest value, NaN where the run has none."""
    values = {key: [run.metrics.get(key, float("nan")) for run in runs] for key in metrics}
    return something_to_find(pd.DataFrame(values, index=range(len(runs)), dtype=float))


def _name(run: StoredRun) -> str:
    return run.tags.get(names.RUN_NAME, run.run_id)


def _state(run: StoredRun) -> str:
    return run.tags.get(names.STATE, run.status.lower())


def _text(run: StoredRun) -> str:
    settings = " ".join(f"{key}={value}" for key, value in run.params.items())
    return f"{_name(run)} {_state(run)} {settings}".lower()
