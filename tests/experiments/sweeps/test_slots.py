"""Places of a study: exact in number, whoever works at them and however they die."""

import json
import multiprocessing
import os
import platform
import signal
import time
from dataclasses import replace
from unittest import mock

import optuna
import pytest
from filelock import FileLock
from optuna.pruners import NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from detr.errors import InputError
from experiments.results.reading.sweep_trials import holders
from experiments.runs.stop import Stop
from experiments.schema.trial_attributes import TrialAttributes
from experiments.sweeps.sampling import PRUNERS, SAMPLERS, SeededByPlace, build_pruner, build_sampler
from experiments.sweeps.slots import MAX_DEATHS, Place, bury, fill, grid, place_lock, search_places, states
from experiments.sweeps.sweep_file import read_sweep
from experiments.sweeps.trial import Phase, work

PLACES = {0: Place({"x": 0.5}, TrialAttributes(known="official"))} | {i: Place() for i in range(1, 8)}


def in_memory(sampler="random", **options):
    return optuna.create_study(direction="maximize", sampler=SeededByPlace({"name": sampler, "seed": 0} | options))


def begin(study):
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    return trial


def test_places_are_offered_once_with_the_known_recipes_first():
    study = in_memory()
    fill(study, PLACES)
    fill(study, PLACES)
    assert states(study)[TrialState.WAITING] == len(PLACES) == len(study.trials)
    first = begin(study)
    assert first.params == {"x": 0.5} and first.user_attrs["known"] == "official"
    assert begin(study).params["x"] != 0.5


def test_a_dead_trial_is_tried_again_with_its_values_and_its_place():
    study = in_memory()
    fill(study, PLACES)
    begin(study)
    dead = begin(study)
    study.tell(dead.number, state=TrialState.FAIL)
    fill(study, PLACES)
    again = study.trials[-1]
    assert again.user_attrs["place"] == 1 and again.system_attrs["fixed_params"] == dead.params
    assert states(study)[TrialState.WAITING] == 7 and sum(states(study).values()) == 8


def test_what_kills_its_process_again_and_again_is_given_up():
    study = in_memory()
    places = {0: Place()}
    for _ in range(MAX_DEATHS):
        fill(study, places)
        study.tell(begin(study).number, state=TrialState.FAIL)
    fill(study, places)
    assert len(study.trials) == MAX_DEATHS and states(study)[TrialState.FAIL] == 1
    fill(study, places, failed_too=True)  # the next command gives it another chance
    assert states(study)[TrialState.WAITING] == 1


def test_a_stop_is_no_death_and_an_own_failure_is_not_tried_again_by_itself():
    study = in_memory()
    for _ in range(MAX_DEATHS + 1):
        fill(study, {0: Place()})
        trial = begin(study)
        trial.set_user_attr("stopped", True)
        study.tell(trial.number, state=TrialState.FAIL)
    fill(study, {0: Place()})
    trial = begin(study)
    trial.set_user_attr("reason", "OutOfMemoryError")
    study.tell(trial.number, state=TrialState.FAIL)
    fill(study, {0: Place()})
    assert states(study)[TrialState.FAIL] == 1 and states(study)[TrialState.WAITING] == 0


def test_only_trials_without_a_living_process_are_buried(tmp_path):
    study = in_memory()
    fill(study, PLACES)
    dead, alive, foreign = begin(study), begin(study), begin(study)
    for trial, machine in ((dead, platform.node()), (alive, platform.node()), (foreign, "elsewhere")):
        trial.set_user_attr("machine", machine)
    with FileLock(place_lock(tmp_path, 1)):
        bury(study, tmp_path, everywhere=False)
        found = [study.trials[t.number].state for t in (dead, alive, foreign)]
        assert found == [TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING]
        bury(study, tmp_path, everywhere=True)
    assert study.trials[foreign.number].state == TrialState.FAIL
    assert study.trials[alive.number].state == TrialState.RUNNING


def test_a_trial_that_ends_while_the_dead_are_looked_for_keeps_its_end(tmp_path, monkeypatch):
    study = in_memory()
    fill(study, {0: Place()})
    trial = begin(study)

    def end_first(folder, place):
        study.tell(trial.number, state=TrialState.PRUNED)
        return place_lock(folder, place)

    monkeypatch.setattr("experiments.sweeps.slots.place_lock", end_first)
    bury(study, tmp_path, everywhere=True)
    assert study.trials[trial.number].state == TrialState.PRUNED


def journal(path):
    return JournalStorage(JournalFileBackend(str(path)))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(
        json.dumps({"sweep": {"name": "x", "question": "?", "rungs": ["6 steps"],
                              "space": {"optim.lr": {"float": [1e-5, 1e-2], "log": True}}, "trials": 12}})
    )  # fmt: skip
    return read_sweep([f"sweep={tmp_path / 'x.yaml'}"])


def labour(folder, sweep, killed):
    """A worker process whose training is a short wait; `killed` is the place at which it dies."""

    def train(trial, phase, chosen, tracker, stop):
        if trial.user_attrs["place"] == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return chosen["optim.lr"]

    study = optuna.load_study(study_name="x", storage=journal(folder / "journal"), sampler=SeededByPlace(sweep.sampler))
    with mock.patch("experiments.sweeps.trial.train_seeds", train):
        work(Phase("search", sweep, study, search_places(sweep), folder, True), None, Stop(), float("inf"))


def test_processes_that_start_together_and_die_leave_an_exact_count(tmp_path, sweep):
    study = optuna.create_study(study_name="x", storage=journal(tmp_path / "journal"), direction="maximize")
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=labour, args=(tmp_path, sweep, killed)) for killed in (None, 3, 5)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    labour(tmp_path, sweep, None)  # takes over what the last of them may have left
    held = holders(study)
    assert sorted(held) == list(range(12)) and {t.state for t in held.values()} == {TrialState.COMPLETE}
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(complete) == 12 and len({t.params["optim.lr"] for t in complete}) == 12
    died = [t for t in study.trials if t.state == TrialState.FAIL and "surplus" not in t.user_attrs]
    assert {t.user_attrs["place"] for t in died} <= {3, 5}
    for trial in died:  # its values were kept
        assert held[trial.user_attrs["place"]].params == trial.params


def test_a_place_that_is_offered_twice_is_worked_at_once(tmp_path, sweep, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "experiments.sweeps.trial.train_seeds", lambda trial, *rest: trained.append(trial.number) or 1.0
    )
    study = optuna.create_study(study_name="x", storage=journal(tmp_path / "journal"), direction="maximize")
    for _ in range(2):  # two machines that found it empty
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING, user_attrs={"place": 0}))
    work(Phase("search", sweep, study, search_places(sweep), tmp_path, True), None, Stop(), float("inf"))
    assert trained == [0, *range(2, 13)]
    assert [t.number for t in study.trials if "surplus" in t.user_attrs] == [1]


def proposals(name, workers):
    """Values by place, from so many samplers in turn."""
    study = in_memory(name, **({"n_startup_trials": 3} if name == "tpe" else {}))
    places = {i: Place() for i in range(8)}
    fill(study, places)
    samplers = [SeededByPlace(study.sampler.options) for _ in range(workers)]
    for i in range(8):
        study.sampler = samplers[i % workers]
        trial = begin(study)
        study.tell(trial.number, -abs(trial.params["x"] - 0.3))
    return [trial.params["x"] for trial in study.trials]


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_proposals_depend_on_the_trials_before_and_not_on_the_process(name):
    alone = proposals(name, 1)
    assert alone == proposals(name, 1) == proposals(name, 4) and len(set(alone)) == 8


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("grid", "gp")])
def test_every_sampler_proposes_different_values(name):
    assert len(set(proposals(name, 2))) == 8


def test_a_grid_is_all_its_combinations_and_no_more(tmp_path, sweep):
    space = {
        "r": {"choices": {"a": ["model.norm=pre"], "b": ["model.norm=post"]}},
        "train.accumulate": {"int": [1, 3]},
        "model.dropout": {"choices": [0.0, 0.1], "when": {"r": "a"}},
    }
    (tmp_path / "g.yaml").write_text(
        json.dumps({"sweep": {"name": "g", "question": "?", "rungs": ["6 steps"], "space": space, "sampler": "grid"}})
    )
    gridded = read_sweep([f"sweep={tmp_path / 'g.yaml'}"])
    places = search_places(gridded)
    assert len(places) == 9  # 3 x (2 with a, 1 with b), fewer than the 24 trials
    assert len({json.dumps(place.values) for place in places.values()}) == 9
    with pytest.raises(InputError, match=r"optim.lr: a grid needs choices"):
        grid(sweep.settings, 0)


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_is_built_and_refuses_a_strange_option(sweep, name):
    options = {"percentile": {"percentile": 50.0}}.get(name, {})
    given = replace(sweep, pruner={"name": name} | options, seeds=list(range(6)))
    assert isinstance(build_pruner(given, 3), PRUNERS[name])
    with pytest.raises(InputError, match=r"sweep.pruner.colour: unknown"):
        build_pruner(replace(given, pruner=given.pruner | {"colour": 1}), 3)


def test_pruners_that_could_never_prune_are_refused(sweep):
    with pytest.raises(InputError, match=r"1 seeds can never give p < 0\.1"):
        build_pruner(replace(sweep, pruner={"name": "wilcoxon"}), 3)
    several = replace(sweep, objectives={"val/AP": "maximize", "seconds": "minimize"})
    with pytest.raises(InputError, match="Optuna prunes by one objective"):
        build_pruner(replace(several, pruner={"name": "median"}), 3)
    assert isinstance(build_pruner(replace(several, pruner={"name": "none"}), 3), NopPruner)
    with pytest.raises(InputError, match=r"sweep.sampler.wrong: unknown"):
        build_sampler({"name": "tpe", "wrong": 1}, 0)
