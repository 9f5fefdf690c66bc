"""Cached calls to experiments.results: the only place that caches.

What is read again and again is keyed by `stamp`, which changes when the store does; what takes long is keyed by the
state of the runs that it rests on, so that a run in progress does not throw away what finished ones gave.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import streamlit as st

from experiments.results import comparison
from experiments.results import evidence as gathering
from experiments.results.bootstrap import MatchTable, tabulate
from experiments.results.detections import queries
from experiments.results.detections.matching import (
    Detections,
    GroundTruth,
    Matched,
    load,
    match,
    read_detections,
    read_truth,
)
from experiments.results.detections.run_summary import RunSummary
from experiments.results.reading.ablations import (
    AblationResults,
    load_ablation,
    load_annotations,
    load_attention,
    load_predictions,
)
from experiments.results.reading.attention import Attention, read_attention
from experiments.results.reading.histories import load_history
from experiments.results.reading.image_files import embed
from experiments.results.reading.listing import list_ablations
from experiments.results.reading.reader import StoredRun
from experiments.results.reading.run_states import last_signs, run_states
from experiments.results.report.sections import Section
from experiments.schema.contrasts import SECONDARY, Contrast
from experiments.schema.store import Store, load_store

TTL = 5  # seconds for which a tracking server's answers hold


def store() -> Store:
    """The store of mlflow.yaml, read anew each time: it is a small file."""
    return load_store()


def stamp() -> str:
    """Changes when the store may have changed: the state of the database's files, or the time where it is remote."""
    database = store().database
    if database is None:
        return _now()
    files = [database, database.with_name(f"{database.name}-wal")]
    known = [path.stat() for path in files if path.exists()]
    return " ".join(f"{one.st_mtime_ns}:{one.st_size}" for one in known)


def _now() -> str:
    return str(int(time.time() / TTL))


def ablations() -> pd.DataFrame:
    """All ablations, newest first, as `listing.list_ablations` gives them."""
    return _ablations(store(), stamp())


def results(run_id: str) -> AblationResults:
    """Design and runs of the ablation with this parent run."""
    return _results(store(), run_id, stamp())


def all_runs() -> tuple[list[StoredRun], dict[str, str]]:
    """Every run of the store, and what the parents are called (`comparison.groups`)."""
    return _all_runs(store(), stamp())


def states(results: AblationResults) -> pd.DataFrame:
    """How far every planned run is, as `run_states.run_states` gives it."""
    return run_states(results, last_signs(store(), results))


def histories(results: AblationResults, metrics: Iterable[str]) -> dict[str, pd.DataFrame]:
    """metric -> its points in all runs of the ablation, as `histories.load_history` gives them; only these are read."""
    runs = results.runs.reindex(columns=["run_id", "state", "progress/step"])
    version = str(pd.util.hash_pandas_object(runs).sum())  # changes with every step of a running one
    run_ids = tuple(runs["run_id"])
    return {metric: _history(store(), run_ids, metric, version) for metric in metrics}


def evidence(results: AblationResults) -> gathering.Evidence:
    """Verdicts with all that they rest on: seconds of work, done again only when a run has ended.

    One and the same object each time: not to be changed.
    """
    runs = results.runs[["run_id", "state"]]
    return _evidence(store(), results.run_id, tuple(runs.itertuples(index=False, name=None)))


def truth(results: AblationResults) -> GroundTruth | None:
    """The validation set; None where it was not stored, ValueError where it is damaged."""
    return _truth(store(), results.run_id, results)


def matched(results: AblationResults, run_id: str, area: tuple[float, float] = (0, float("inf"))) -> Matched | None:
    """The detections of a finished run beside the objects of an area range; None where either was not stored.

    One and the same object each time: not to be changed. ValueError where the files are damaged.
    """
    return _matched(store(), results.run_id, run_id, area, results)


def query_boxes(results: AblationResults, run_id: str) -> pd.DataFrame | None:
    """Of a finished run, as `queries.query_boxes` gives them; None where detections or objects were not stored."""
    return _query_boxes(store(), results.run_id, run_id, results)


def attention(run_id: str) -> Attention | None:
    """The maps of a finished run; None where it stored none, AttentionError where the file is damaged."""
    return _attention(store(), run_id)


class Sweep(NamedTuple):
    """What a page tells of a sweep."""

    label: str  # what its ranks are good for
    is_checked: bool  # they were compared with those of longer runs
    sections: list[Section]  # of its report
    trials: pd.DataFrame  # of `sweeps.trial_frame`


def sweeps() -> pd.DataFrame:
    """All sweeps, newest first, as `sweeps.sweeps` gives them."""
    return _sweeps(store(), stamp())


def sweep(run_id: str, storage: str) -> Sweep:
    """The sweep with this parent run, whose trials are in this storage. Not to be changed."""
    try:
        changed = str(Path(storage).stat().st_mtime_ns)
    except (OSError, ValueError):  # a database, or a file that is not there or not ours to look at
        changed = _now()
    return _sweep(store(), run_id, changed)


def summary(results: AblationResults, run_id: str, labels: tuple[int, ...] = ()) -> RunSummary | None:
    """Curves and errors of a finished run, of some classes or of all; None where its detections were not stored."""
    return _summary(store(), results.run_id, run_id, labels, results)


def class_differences(
    results: AblationResults, arm: Sequence[str], against: Sequence[str], replicates: int
) -> pd.DataFrame:
    """`evidence.class_table` of two arms, by their run ids; without replicates there are no intervals."""
    return _class_differences(store(), results.run_id, tuple(arm), tuple(against), replicates, results)


@st.cache_data(max_entries=500, show_spinner=False)
def image(folder: Path | None, file_name: str, size: tuple[int, int], max_side: int) -> tuple[str, str]:
    """`image_files.embed`."""
    return embed(folder, file_name, size, max_side)


@st.cache_data(max_entries=8, show_spinner="Reading the list of ablations")
def _ablations(store: Store, stamp: str) -> pd.DataFrame:
    return list_ablations(store)


@st.cache_data(max_entries=32, show_spinner="Reading the runs of the ablation")
def _results(store: Store, run_id: str, stamp: str) -> AblationResults:
    return load_ablation(store, run_id)


@st.cache_data(max_entries=2, show_spinner="Reading all runs")
def _all_runs(store: Store, stamp: str) -> tuple[list[StoredRun], dict[str, str]]:
    return comparison.all_runs(store), comparison.groups(store)


@st.cache_data(max_entries=64, show_spinner="Reading the curves")
def _history(store: Store, run_ids: tuple[str, ...], metric: str, version: str) -> pd.DataFrame:
    return load_history(store, run_ids, metric)


# What follows is large and never changes once a run has finished: one object for all pages, not a copy for each.
@st.cache_resource(max_entries=8, show_spinner="Computing intervals and verdicts")
def _evidence(store: Store, run_id: str, states: tuple) -> gathering.Evidence:
    return gathering.gather(store, run_id)


@st.cache_resource(max_entries=4, show_spinner="Reading the ground truth")
def _truth(store: Store, run_id: str, _results: AblationResults) -> GroundTruth | None:
    path = load_annotations(store, _results)
    return read_truth(load(path)) if path else None


@st.cache_resource(max_entries=32, show_spinner="Reading the detections")
def _detections(store: Store, ablation: str, run_id: str, _results: AblationResults) -> Detections | None:
    path, truth = load_predictions(store, run_id), _truth(store, ablation, _results)
    return read_detections(truth, load(path)) if path and truth else None


@st.cache_resource(max_entries=64, show_spinner="Counting errors")
def _summary(
    store: Store, ablation: str, run_id: str, labels: tuple[int, ...], _results: AblationResults
) -> RunSummary | None:
    matched = _matched(store, ablation, run_id, (0.0, 1e10), _results)
    if matched is None:
        return None
    return RunSummary(matched.restricted(labels) if labels else matched)


@st.cache_resource(max_entries=64, show_spinner="Matching at ten overlaps")
def _match_table(store: Store, ablation: str, run_id: str, _results: AblationResults) -> MatchTable | None:
    found = _detections(store, ablation, run_id, _results)
    return tabulate(found) if found else None


@st.cache_data(max_entries=32, show_spinner="Comparing classes")
def _class_differences(
    store: Store, ablation: str, arm: tuple[str, ...], against: tuple[str, ...], replicates: int,
    _results: AblationResults,
) -> pd.DataFrame:  # fmt: skip
    sides = {
        name: [table for run in runs if (table := _match_table(store, ablation, run, _results))]
        for name, runs in (("arm", arm), ("against", against))
    }
    known = {name: tables for name, tables in sides.items() if tables}
    return gathering.class_table(known, Contrast("", SECONDARY, (("arm", "against"),)), replicates)


@st.cache_resource(max_entries=64, show_spinner="Matching detections and objects")
def _matched(
    store: Store, ablation: str, run_id: str, area: tuple[float, float], _results: AblationResults
) -> Matched | None:
    found = _detections(store, ablation, run_id, _results)
    return match(found, area) if found else None


@st.cache_resource(max_entries=8, show_spinner="Reading the boxes of queries")
def _query_boxes(store: Store, ablation: str, run_id: str, _results: AblationResults) -> pd.DataFrame | None:
    path, truth = load_predictions(store, run_id), _truth(store, ablation, _results)
    return queries.query_boxes(path, truth) if path and truth else None


@st.cache_resource(max_entries=16, show_spinner="Reading the attention maps")
def _attention(store: Store, run_id: str) -> Attention | None:
    path = load_attention(store, run_id)
    return read_attention(path) if path else None


# These load Optuna, which takes seconds: no other page waits for it.
@st.cache_data(max_entries=4, show_spinner="Reading the list of sweeps")
def _sweeps(store: Store, stamp: str) -> pd.DataFrame:
    from experiments.results.reading.sweep_trials import sweeps

    return sweeps(store)


@st.cache_resource(max_entries=4, show_spinner="Reading the sweep")
def _sweep(store: Store, run_id: str, stamp: str) -> Sweep:
    from experiments.results import trust
    from experiments.results.reading.sweep_trials import load_sweep, trial_frame
    from experiments.results.report import sweep_report

    found = load_sweep(store, run_id)
    label = trust.label(found)
    trials = trial_frame(found.study, found.objectives)
    return Sweep(label, label != trust.SCREENING, list(sweep_report.sections(found)), trials)
