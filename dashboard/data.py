"""Cached calls to experiments.results: the only place that caches.

What is read again and again is keyed by `stamp`, which changes when the store does; what takes long is keyed by the
state of the runs that it rests on, so that a run in progress does not throw away what finished ones gave.
"""

import os
import time

import pandas as pd
import streamlit as st

from experiments.results import evidence as gathering
from experiments.results.listing import list_ablations
from experiments.results.runs import AblationResults, load_ablation
from experiments.store import Store, load_store

# A person waits: the tracking server is asked twice and for seconds, not seven times and for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
TTL = 5  # seconds for which a tracking server's answers hold


def store() -> Store:
    """The store of mlflow.yaml, read anew each time: it is a small file."""
    return load_store()


def stamp() -> str:
    """Changes when the store may have changed: the state of the database's files, or the time where it is remote."""
    database = store().database
    if database is None:
        return str(int(time.time() / TTL))
    files = [database, database.with_name(f"{database.name}-wal")]
    known = [path.stat() for path in files if path.exists()]
    return " ".join(f"{one.st_mtime_ns}:{one.st_size}" for one in known)


def ablations() -> pd.DataFrame:
    """All ablations, newest first, as `listing.list_ablations` gives them."""
    return _ablations(store(), stamp())


def results(run_id: str) -> AblationResults:
    """Design and runs of the ablation with this parent run."""
    return _results(store(), run_id, stamp())


def evidence(results: AblationResults) -> gathering.Evidence:
    """Verdicts with all that they rest on: seconds of work, done again only when a run has ended."""
    runs = results.runs[["run_id", "state"]]
    return _evidence(store(), results.run_id, tuple(runs.itertuples(index=False, name=None)))


@st.cache_data(max_entries=8, show_spinner="Reading the list of ablations")
def _ablations(store: Store, stamp: str) -> pd.DataFrame:
    return list_ablations(store)


@st.cache_data(max_entries=32, show_spinner="Reading the runs of the ablation")
def _results(store: Store, run_id: str, stamp: str) -> AblationResults:
    return load_ablation(store, run_id)


@st.cache_data(max_entries=8, show_spinner="Computing intervals and verdicts")
def _evidence(store: Store, run_id: str, states: tuple) -> gathering.Evidence:
    return gathering.gather(store, run_id)
