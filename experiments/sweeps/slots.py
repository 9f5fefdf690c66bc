"""The places of a study that are still to be worked at.

A study has a fixed number of places, each to be held by one trial that ends (see `results.sweeps`). Whoever looks for
work first marks the trials of dead processes as failed (`bury`) and offers every place without a holder again (`fill`).
Both may be done by several processes at once: what is offered twice is settled by number. So no process is in charge,
any may die at any time, and the number of trials is exact.
"""

import itertools
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from detr.errors import InputError
from experiments.results.reading.sweep_trials import attributes_of, holders, trial_frame, trials_of
from experiments.results.trust import ranking, spread
from experiments.schema.trial_attributes import TrialAttributes
from experiments.sweeps.space import Setting
from experiments.sweeps.sweep_file import Sweep

MAX_DEATHS = 3  # of processes at one place: what kills them would do so again


@dataclass(frozen=True)
class Place:
    """What one trial of a study is to do."""

    values: dict[str, Any] | None = None  # setting -> value; None: the sampler chooses
    attributes: TrialAttributes = field(default_factory=TrialAttributes)  # of its trials


def search_places(sweep: Sweep) -> dict[int, Place]:
    """place -> what the search does there: the known recipes first, then what the sampler proposes, or the grid."""
    places = [Place(values, TrialAttributes(known=name)) for name, values in sweep.known.items()]
    if sweep.sampler["name"] == "grid":
        places += [Place(values) for values in grid(sweep.settings, sweep.sampler.get("seed", 0))]
    else:
        places += [Place()] * max(0, sweep.trials - len(places))
    return dict(enumerate(places[: sweep.trials]))


def grid(settings: list[Setting], seed: int) -> list[dict[str, Any]]:
    """All combinations in a random order, conditions heeded; InputError for a range without step."""
    axes: list[list[Any]] = []
    for setting in settings:
        span = setting.distribution
        if isinstance(span, CategoricalDistribution):
            axes.append(list(span.choices))
        elif span.step is None or span.log:
            raise InputError(f"sweep.space.{setting.name}: a grid needs choices, or a step")
        else:
            axes.append([span.low + i * span.step for i in range(round((span.high - span.low) / span.step) + 1)])
    found: list[dict[str, Any]] = []
    for values in itertools.product(*axes):
        chosen: dict[str, Any] = {}
        for setting, value in zip(settings, values, strict=True):
            if setting.applies(chosen):
                chosen[setting.name] = value
        if chosen not in found:  # a setting that does not apply makes no difference
            found.append(chosen)
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def trust_places(sweep: Sweep, study: optuna.Study) -> dict[int, Place]:
    """place -> re-run of a trial at a longer rung, for trials spread over the ranking of the search."""
    trials = trials_of(study)
    table = trial_frame(study, sweep.objectives)
    numbers = spread(ranking(table, sweep.metric, sweep.objectives[sweep.metric]), sweep.trust_configurations)
    by_number = {trial.number: trial for trial in trials}
    places = {}
    for number in numbers:
        for i, rung in enumerate(sweep.rungs[1:], start=1):
            trial = by_number[number]
            about = TrialAttributes(trial=number, rung=rung, known=attributes_of(trial).known)
            places[number * len(sweep.rungs) + i] = Place(trial.params, about)
    return places


def fill(study: optuna.Study, places: dict[int, Place], failed_too: bool = False) -> None:
    """Offer every place that no trial holds: new ones, and those whose trial died, with the same values.

    A place whose trial failed by itself is offered again only where `failed_too`.
    """
    held = holders(study)
    deaths: dict[int, int] = {}
    for trial in trials_of(study):
        about = attributes_of(trial)
        if trial.state == TrialState.FAIL and not about.stopped and about.place is not None:
            deaths[about.place] = deaths.get(about.place, 0) + 1
    for number, place in places.items():
        last, values = held.get(number), place.values
        if last is not None:
            given_up = attributes_of(last).reason is not None or deaths.get(number, 0) >= MAX_DEATHS
            if last.state != TrialState.FAIL or (given_up and not failed_too):
                continue
            values = last.params or values
        attributes = replace(place.attributes, place=number).to_dict()
        if values is None:
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes))
        else:
            study.enqueue_trial(values, attributes)


def bury(study: optuna.Study, folder: Path, everywhere: bool) -> None:
    """Mark running trials as failed whose process has died: the lock of their place is free.

    Trials of other machines are left to the storage's heartbeat, unless `everywhere`: a journal has none, and is used
    on machines that share the file system. The claim lock must be held: it covers a trial from its start to its lock.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        about = attributes_of(trial)
        here = everywhere or about.machine == platform.node()
        if about.place is None or not here:
            continue
        try:
            with FileLock(place_lock(folder, about.place), timeout=0):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)  # it may end meanwhile
        except (Timeout, UpdateFinishedTrialError):
            continue


def place_lock(folder: Path, place: int) -> Path:
    """File that is locked while a trial works at the place; the kernel frees it when its process dies."""
    path = folder / f"{place:03d}"
    path.mkdir(parents=True, exist_ok=True)
    return path / "lock"


def states(study: optuna.Study) -> dict[TrialState, int]:
    """How many places are held by trials of each state."""
    counts = dict.fromkeys(TrialState, 0)
    for trial in holders(study).values():
        counts[trial.state] += 1
    return counts
