"""Sweeps: MLflow's parent run and the Optuna study -> frames.

A sweep is a study of a fixed number of places. Each place is one configuration that the sampler proposes or that is
known beforehand; a trial works at it, and when the trial's process dies, another trial takes the place and goes on from
the run directory. So every place counts once, however many trials it took.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.results.reading.reader import StoredRun, open_reader, require_reader
from experiments.schema import names
from experiments.schema.store import SQLITE, Store, StoreError, reason, with_driver, without_password
from experiments.schema.trial_attributes import TrialAttributes

TRUST_SUFFIX = ".trust"  # name of the study of the re-runs
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class SweepResults:
    """What is known of one sweep."""

    run_id: str  # of the parent
    spec: dict[str, Any]  # name, question, objectives {metric: direction}, space, rungs, seeds, ...
    study: optuna.Study
    trust: optuna.Study | None  # the re-runs at longer rungs; None before they begin

    @property
    def objectives(self) -> dict[str, str]:
        """metric -> maximize or minimize; the first one ranks."""
        return dict(self.spec["objectives"])


def sweeps(store: Store) -> pd.DataFrame:
    """All sweeps of the store, newest first: run_id (of the parent), name, question, state, started, study, storage."""
    columns = ["run_id", "name", "question", "state", "started", "study", "storage"]
    reader = open_reader(store)
    found = reader.runs(store.sweeps, {names.SWEEP: None}) if reader else []
    rows = []
    for run in found:
        tags, started = _tags(run), pd.Timestamp(run.started, unit="ms", tz="UTC")
        question, state = run.tags.get("mlflow.note.content", ""), run.tags.get(names.STATE, "running")
        rows.append((run.run_id, tags.sweep, question, state, started, tags.study, tags.storage))
    return pd.DataFrame(rows, columns=columns)


def load_sweep(store: Store, run_id: str) -> SweepResults:
    """The sweep with this parent run; StoreError where its storage cannot be read."""
    reader = open_reader(store)
    path = reader.file(run_id, names.SPEC) if reader else None
    if path is None:
        raise StoreError(
            f"{names.SPEC} of the sweep {run_id} is missing: it is just being started, or the file was lost"
        )
    tags, spec = _tags(require_reader(store).run(run_id)), json.loads(path.read_text())
    return SweepResults(run_id, spec, *load_studies(store, tags.study, tags.storage))


def _tags(run: StoredRun) -> names.SweepTags:
    try:
        return names.SweepTags.from_dict(run.tags)
    except ValueError as error:
        raise StoreError(f"the sweep {run.run_id} is damaged: {error}") from None


def load_studies(store: Store, name: str, address: str) -> tuple[optuna.Study, optuna.Study | None]:
    """A sweep's study, which is said to be at this address, and the study of its re-runs if there is one. StoreError
    where they cannot be read.
    """
    address, trust = trusted_address(store, name, address), name + TRUST_SUFFIX
    try:
        storage = open_storage(address)
        studies = optuna.get_all_study_names(storage)
        if name not in studies:
            raise StoreError(f"{without_password(address)} has no study {name}")
        return (
            optuna.load_study(study_name=name, storage=storage),
            optuna.load_study(study_name=trust, storage=storage) if trust in studies else None,
        )
    except StoreError:
        raise
    except Exception as error:  # of drivers and of Optuna, and whatever a foreign file provokes in them
        told = reason(error.__cause__ or error, address) or type(error).__name__
        hint = "; a password may be given as PGPASSWORD" if "://" in address else ""
        raise StoreError(f"{without_password(address)}: cannot be read as a sweep's storage ({told}){hint}") from None


def trusted_address(store: Store, study: str, address: str) -> str:
    """Where to find the study that is said to be at this address. StoreError where it is a database that neither
    mlflow.yaml nor a sweep of this run root names: who wrote the tag would have us offer a password to his server.
    """
    if "://" not in address or address.startswith(SQLITE):
        return address
    for known in (store.optuna_storage, _started_here(store, study)):  # with our account, and the driver that we have
        if known and "://" in known and _server(known) == _server(address):
            return with_driver(known)
    shown = without_password(address)
    raise StoreError(
        f"the study of this sweep is said to be at {shown}, which this store does not know; where you trust it, "
        f"add to mlflow.yaml: optuna_storage: {shown}"
    )


def _server(address: str) -> tuple[object, ...]:
    try:
        url = sqlalchemy.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return (address,)
    return url.get_backend_name(), url.host, url.query.get("host"), url.port, url.database


def _started_here(store: Store, study: str) -> str | None:
    """The address that a sweep of this run root gave for its study."""
    try:
        tracked = json.loads((store.run_root / Path(study).name / names.TRACKED).read_text())
        return str(tracked["tags"][names.STORAGE])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # of no sweep of ours, or damaged
        return None


def open_storage(address: str) -> BaseStorage:
    """The Optuna storage at this address, to read: the path of a journal or the URL of a database. StoreError where
    there is no such file.
    """
    file = address.removeprefix(SQLITE)
    if ("://" not in address or file != address) and not Path(file).is_file():
        raise StoreError(f"{file}: the storage of this sweep is not there")
    if "://" not in address:
        return JournalStorage(JournalFileBackend(address))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(address, skip_table_creation=True)


def attributes_of(trial: FrozenTrial | Trial) -> TrialAttributes:
    """Our attributes of a trial; StoreError if one is of a wrong kind."""
    try:
        return TrialAttributes.from_dict(trial.user_attrs)
    except ValueError as error:
        raise StoreError(f"trial {trial.number} of the study is damaged: {error}") from None


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """All trials but surplus ones, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if not attributes_of(trial).surplus]


def holders(study: optuna.Study) -> dict[int, FrozenTrial]:
    """place -> the trial that holds it, or where all have failed, the last one.

    A place may have been offered twice, by processes that found it empty at the same time. It belongs to the earliest
    trial that has not failed.
    """
    found: dict[int, FrozenTrial] = {}
    for trial in trials_of(study):
        place = attributes_of(trial).place
        if place is not None and (place not in found or found[place].state == TrialState.FAIL):
            found[place] = trial
    return found


def trial_frame(study: optuna.Study, objectives: dict[str, str]) -> pd.DataFrame:
    """One row a trial, by number.

    number, place (see above), state (waiting, running, finished, pruned, failed; retried: another trial took its
    place), reason, known, a column an objective (for pruned ones its last intermediate value), a column a setting
    (missing where it was not suggested), `metrics.val/AP` and the like (of the last evaluation), evaluations, steps,
    num_steps, seconds (of training), started, ended, run_id (of MLflow).
    """
    held = {trial.number for trial in holders(study).values()}
    rows = [
        _row(trial, objectives, trial.number in held)
        for trial in trials_of(study)
        if trial.number in held or trial.state == TrialState.FAIL
    ]
    return pd.DataFrame(rows, columns=None if rows else ["number", "place", "state", *objectives])


def _row(trial: FrozenTrial, objectives: dict[str, str], holds_place: bool) -> dict[str, Any]:
    attributes, values = attributes_of(trial), trial.values or []
    state = STATES[trial.state] if holds_place else "retried"
    return {
        "number": trial.number,
        "place": attributes.place,
        "state": state,
        "reason": attributes.reason or "",
        "known": attributes.known,
        **dict(zip(objectives, values or [float("nan")] * len(objectives), strict=False)),
        **trial.params,
        **{f"metrics.{name}": value for name, value in attributes.metrics.items()},
        "evaluations": len(trial.intermediate_values),
        "steps": attributes.steps,
        "num_steps": attributes.num_steps,
        "seconds": attributes.seconds,
        "started": trial.datetime_start,
        "ended": trial.datetime_complete,
        "run_id": attributes.mlflow_run_id,
    }


def intermediate_frame(study: optuna.Study) -> pd.DataFrame:
    """One row a reported value: number (of the trial), evaluation (1, 2, ...), value (of the first objective)."""
    rows = [
        (trial.number, evaluation, value)
        for trial in trials_of(study)
        for evaluation, value in sorted(trial.intermediate_values.items())
    ]
    return pd.DataFrame(rows, columns=["number", "evaluation", "value"])


def steps_saved(frame: pd.DataFrame) -> float:
    """Share of the planned steps that the pruner saved, over the trials that ended; NaN before any has.

    A trial that diverged would have ended without a pruner as well: it saved nothing.

    frame:  of `trial_frame`
    """
    ended = frame[frame["state"].isin(["finished", "pruned"])]
    if ended.empty:
        return float("nan")
    planned = ended["num_steps"].where(ended["reason"] == "", ended["steps"]).sum()
    return 1 - ended["steps"].sum() / planned if planned else float("nan")
