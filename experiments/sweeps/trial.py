"""What a worker process of a sweep does: take a place of the study, train it, tell Optuna, and look for the next.

    python -m experiments.sweeps.trial STUDY PHASE UNTIL SETTING=VALUE ...

`search` starts these. PHASE is search or trust (re-runs at longer rungs), UNTIL a Unix time after which no trial is
begun. Exit codes: 0 there is nothing left to begin, 2 the input is wrong, 3 stopped.
"""

import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.pruners import NopPruner
from optuna.trial import Trial, TrialState

from detr.errors import ExitCode, InputError, LostProcess, UnavailableError, run_command
from detr.step import NonFiniteLoss
from detr.train import Record
from experiments.definition.arms import Run, data_fingerprint
from experiments.folders.lease import Held
from experiments.results.reading.sweep_trials import TRUST_SUFFIX, attributes_of, holders
from experiments.runs.ranks import become, lead
from experiments.runs.run_directory import RunDirectory
from experiments.runs.stop import Stop
from experiments.runs.worker import execute, until_stopped
from experiments.schema.store import Store, load_store
from experiments.schema.trial_attributes import TrialAttributes
from experiments.sweeps.sampling import build_pruner
from experiments.sweeps.slots import Place, bury, fill, place_lock, search_places, states, trust_places
from experiments.sweeps.space import config_of, overrides_of, suggest
from experiments.sweeps.study import open_storage, open_study, quieten_optuna, storage_address
from experiments.sweeps.sweep_file import Sweep, read_sweep
from experiments.tracking.client import configure_mlflow
from experiments.tracking.upload import noted

SEARCH, TRUST = "search", "trust"


class Ended(Exception):
    """A trial that neither finished nor was pruned; its attributes say why."""


@dataclass(frozen=True)
class Phase:
    """A study and what its trials need to know."""

    name: str  # search | trust
    sweep: Sweep
    study: optuna.Study
    places: dict[int, Place]
    folder: Path  # of the sweep
    shared: bool  # the storage is a journal: all its users share the file system and its locks

    @property
    def directory(self) -> Path:
        """Folder of its places."""
        return self.folder / ("trials" if self.name == SEARCH else "trust")

    @property
    def claim(self) -> FileLock:
        """Held by whoever looks for work on this machine, until the trial holds the lock of its place."""
        return FileLock(self.folder / "claim.lock")


def open_phase(name: str, study_name: str, sweep: Sweep) -> Phase:
    """Open the study; that of the re-runs is made on first use."""
    store = load_store()
    address = storage_address(sweep, store)
    storage = open_storage(address, sweep, store)
    evaluations = config_of(sweep.overrides, [], {}, sweep.rungs[0], seed=0).train.evaluations
    study = open_study(study_name, sweep, storage, build_pruner(sweep, evaluations))
    folder = store.run_root / study_name
    folder.mkdir(parents=True, exist_ok=True)
    if name == SEARCH:
        places = search_places(sweep)
    else:
        places = trust_places(sweep, study)
        study = open_study(study_name + TRUST_SUFFIX, sweep, storage, NopPruner())
    return Phase(name, sweep, study, places, folder, "://" not in address)


def refresh(phase: Phase) -> None:
    """Bury the dead and offer what is left; the claim lock must be held."""
    bury(phase.study, phase.directory, everywhere=phase.shared)
    fill(phase.study, phase.places)


def work(phase: Phase, store: Store, stop: Stop, until: float) -> int:
    """Train trial after trial until there is nothing left to begin; returns the exit code."""
    while not stop.requested and time.time() < until:
        claim = phase.claim
        with ExitStack() as locks:  # that of the place is held until Optuna has been told how its trial ended
            locks.callback(claim.release, force=True)
            claim.acquire()
            refresh(phase)
            if not states(phase.study)[TrialState.WAITING]:
                return ExitCode.DONE
            objective = partial(run_trial, phase=phase, store=store, stop=stop, claim=claim, locks=locks)
            phase.study.optimize(objective, n_trials=1, catch=(Ended,))
    return ExitCode.STOPPED if stop.requested else ExitCode.DONE


def run_trial(
    trial: Trial, phase: Phase, store: Store, stop: Stop, claim: FileLock, locks: ExitStack
) -> float | list[float]:
    """Optuna's objective: lock the place, choose the values, give the claim back, train every seed."""
    place = attributes_of(trial).place
    if place is None or holders(phase.study)[place].number != trial.number:
        TrialAttributes(surplus=True).write(trial)  # another machine was faster
        raise Ended
    try:
        locks.enter_context(FileLock(place_lock(phase.directory, place), timeout=1))
    except Timeout:
        TrialAttributes(reason="a process that was taken for dead still works at its place").write(trial)
        raise Ended from None
    chosen = suggest(trial, phase.sweep.settings)
    TrialAttributes(machine=platform.node()).write(trial)
    claim.release()
    return train_seeds(trial, phase, chosen, store, stop)


def train_seeds(trial: Trial, phase: Phase, chosen: dict[str, Any], store: Store, stop: Stop) -> float | list[float]:
    """Train the trial with each of its seeds; the mean of every objective."""
    sweep, searching = phase.sweep, phase.name == SEARCH
    seeds = sweep.seeds if searching else sweep.trust_seeds
    between_seeds = searching and sweep.pruner["name"] == "wilcoxon"
    measured: list[dict[str, float]] = []
    for i, seed in enumerate(seeds):
        directory = run_directory(trial, phase, chosen, seed)
        judged = searching and i == 0 and not between_seeds and len(sweep.objectives) == 1
        state = directory.status["state"]
        if state != "finished":  # else an earlier trial at this place came so far
            follow = partial(until_stopped, stop=stop)
            if judged:
                follow = partial(judge, trial=trial, phase=phase, directory=directory, stop=stop)
            try:
                state = execute(directory, store, follow, keep_weights=False)
            except Held as error:
                TrialAttributes(reason=str(error)).write(trial)
                raise Ended from None
        elif judged:
            report(trial, directory, sweep.metric)
        measured.append(summary(directory))
        note(trial, measured, directory, len(seeds))
        settle(trial, state, directory)
        if missing := [metric for metric in sweep.objectives if metric not in measured[-1]]:
            lacking = f"no evaluation gave {missing[0]}: the validation set has nothing of that kind"
            TrialAttributes(reason=lacking).write(trial)
            raise Ended
        if between_seeds:
            trial.report(measured[-1][sweep.metric], i)
            if i + 1 < len(seeds) and trial.should_prune():
                raise optuna.TrialPruned
    values = [float(np.mean([one[metric] for one in measured])) for metric in sweep.objectives]
    return values[0] if len(values) == 1 else values


def run_directory(trial: Trial, phase: Phase, chosen: dict[str, Any], seed: int) -> RunDirectory:
    """The run of one seed, in the place's folder; one that is there is taken up."""
    sweep, about = phase.sweep, attributes_of(trial)
    rung = about.rung or sweep.rungs[0]
    name = f"trial {about.place}" if phase.name == SEARCH else f"trial {about.trial} again, {rung}"
    try:
        config = config_of(sweep.overrides, sweep.settings, chosen, rung, seed)
    except InputError as error:  # each value is fine, and the combination is not
        TrialAttributes(reason=str(error)).write(trial)
        raise optuna.TrialPruned from None
    recipes = {s.name: str(chosen[s.name]) for s in sweep.settings if s.levels and s.name in chosen}
    run = Run(
        name=f"{name}, seed {seed}",
        arm=name,
        levels=recipes,
        config=config,
        fingerprint=data_fingerprint(config),
        directory=phase.directory / f"{about.place:03d}" / f"seed-{seed}",
    )
    directory = RunDirectory.create(run, phase.folder)
    (directory.path / "overrides.json").write_text(json.dumps(overrides_of(sweep.settings, chosen)))
    return directory


def judge(records: Iterator[Record], trial: Trial, phase: Phase, directory: RunDirectory, stop: Stop) -> str:
    """Follow a run, telling Optuna of every evaluation, until the pruner gives it up."""
    for record in records:
        last = record.step == record.num_steps
        if phase.sweep.metric in record.metrics:
            report(trial, directory, phase.sweep.metric)
            if not last and trial.should_prune():
                return "pruned"
        if stop.requested and not last:
            return "stopped"
    return "finished"


def report(trial: Trial, directory: RunDirectory, metric: str) -> None:
    """Tell Optuna the evaluations that it has not heard of, those from before an interruption too: 1, 2, ..."""
    values = {line.step: line.metrics[metric] for line in directory.records.read() if metric in line.metrics}
    known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    for evaluation, step in enumerate(sorted(values), start=1):
        if evaluation not in known:
            trial.report(values[step], evaluation)


def summary(directory: RunDirectory) -> dict[str, float]:
    """Outcome of a run: the metrics of its last evaluation, seconds, steps done and planned."""
    records = directory.records.read()
    found: dict[str, float] = {}
    for record in records:
        found |= {key: value for key, value in record.metrics.items() if key.startswith("val/")}
    if records:
        last = records[-1]
        found |= {"seconds": last.seconds or 0.0, "steps": last.step, "num_steps": last.num_steps or 0}
    return found


def note(trial: Trial, measured: list[dict[str, float]], directory: RunDirectory, num_seeds: int) -> None:
    """Write to the trial what is known of it so far."""
    shared = [key for key in measured[0] if key.startswith("val/") and all(key in one for one in measured)]
    TrialAttributes(
        metrics={key: float(np.mean([one[key] for one in measured])) for key in shared},
        steps=sum(int(one.get("steps", 0)) for one in measured),
        seconds=sum(one.get("seconds", 0) for one in measured),
        num_steps=num_seeds * int(measured[0].get("num_steps", 0)),
        mlflow_run_id=attributes_of(trial).mlflow_run_id or noted(directory.path)["run_id"],
    ).write(trial)


def settle(trial: Trial, state: str, directory: RunDirectory) -> None:
    """Raise what Optuna is to hear of a run that did not finish."""
    if state == "pruned":
        raise optuna.TrialPruned
    if state == "stopped":
        TrialAttributes(stopped=True).write(trial)
        raise Ended
    if state == "failed":
        error = directory.status["error"]
        TrialAttributes(reason=error).write(trial)
        if error.startswith(NonFiniteLoss.__name__):  # the sampler is to learn from it, and the search to go on
            raise optuna.TrialPruned
        raise Ended


def main(arguments: list[str]) -> int:
    """Work at a study; returns the exit code."""
    configure_mlflow()
    quieten_optuna()
    return run_command(lambda: work_at(*arguments))


def work_at(study_name: str, phase_name: str, until: str, *overrides: str) -> int:
    """Open the study's phase and train its trials, in all processes that a run has; returns the exit code."""
    sweep, store = read_sweep(list(overrides)), load_store()
    phase = open_phase(phase_name, study_name, sweep)
    base = config_of(list(overrides), [], {}, sweep.rungs[0], seed=0)
    become(base.train.num_processes, ["experiments.sweeps.trial", study_name, phase_name, until, *overrides])
    try:
        with Stop().listen() as stop:
            return lead(lambda: work(phase, store, stop, float(until)))
    except LostProcess as loss:
        raise UnavailableError(str(loss)) from loss  # to the search it is a worker that died, not one that was stopped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
