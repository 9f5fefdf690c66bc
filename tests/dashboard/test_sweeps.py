"""The page Sweeps on studies made by hand."""

import json

import optuna
import pytest
from mlflow.entities import RunTag
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from experiments.results.reading import sweep_trials
from experiments.schema import names

SPEC = {
    "question": "Which lr?",
    "objectives": {"val/AP": "maximize"},
    "known": {},
    "sampler": {"name": "tpe", "seed": 0},
    "pruner": {"name": "none"},
    "rungs": ["10 steps", "30 steps"],
    "seeds": [0],
    "trust_seeds": [1],
    "overrides": ["sweep=lr"],
    "space": {"optim.lr": "1e-5 to 1, log", "clip": "0.1, 1.0"},
}


def add_trials(study, values, attributes):
    for i, value in enumerate(values):
        given = {
            "place": i,
            "metrics": {"val/AP": value},
            "steps": 10,
            "num_steps": 10,
        }
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=value,
                params={"optim.lr": 1e-4 * (i + 1), "clip": "0.1" if i % 2 else "1.0"},
                distributions={"optim.lr": FloatDistribution(1e-5, 1), "clip": CategoricalDistribution(["0.1", "1.0"])},
                intermediate_values={1: value / 2, 2: value},
                user_attrs=given | attributes[i],
            )
        )


@pytest.fixture
def sweep(stored):
    """Store a sweep of six trials, and as many re-runs as `again` says; the id of its run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def make(name: str, again: int = 0, state: str = "finished", said: str = "") -> str:
        journal = stored.folder / f"{name}.journal"
        storage = JournalStorage(JournalFileBackend(str(journal)))
        values = [0.1, 0.3, 0.2, 0.5, 0.4, 0.6]
        add_trials(optuna.create_study(study_name=name, storage=storage, direction="maximize"), values, [{}] * 6)
        if again:
            longer = optuna.create_study(
                study_name=name + sweep_trials.TRUST_SUFFIX, storage=storage, direction="maximize"
            )
            places = [{"trial": i, "rung": "30 steps"} for i in range(again)]
            add_trials(longer, [v + 0.1 for v in values[:again]], places)
        tags = {names.SWEEP: name, names.STUDY: name, names.STORAGE: said or str(journal), names.STATE: state}
        experiment = stored.client.get_experiment_by_name(stored.store.sweeps)
        location = (stored.folder / "artifacts").as_uri()
        where = experiment.experiment_id if experiment else stored.client.create_experiment(
            stored.store.sweeps, artifact_location=location
        )  # fmt: skip
        stored.made += 1
        run_id = stored.client.create_run(where, start_time=stored.made).info.run_id
        stored.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        stored.client.log_text(run_id, json.dumps(SPEC | {"name": name}), names.SPEC)
        return run_id

    return make


def words(test) -> str:
    return " ".join(one.value for one in (*test.markdown, *test.info, *test.warning, *test.caption)).replace("\\", "")


def test_a_store_without_sweeps_says_what_to_run(tmp_path_factory, page):
    from stored import Builder

    test = page("sweeps", store=Builder(tmp_path_factory.mktemp("none")))
    assert "No sweep has been run yet" in words(test)
    assert test.code[0].value == "python experiments/sweep.py sweep=lr_clip workers=2"


def test_a_sweep_without_re_runs_is_for_screening_only(page, sweep):
    sweep("short")
    test = page("sweeps")
    assert "screening only" in test.warning[0].value
    assert test.selectbox(key="sweep").value.startswith("short ")
    tables = [one.value for one in test.dataframe]
    assert len(tables[0]) == 6 and tables[0]["val/AP"].max() == 0.6  # all trials, in the metric's units
    best = next(table for table in tables if "rank" in table)
    assert best["AP x 100"].tolist() == ["60", "50", "40", "30", "20", "10"]
    headings = [one.value.lower() for one in test.subheader]
    for figure in ("history", "intermediate values", "importances", "parallel coordinate", "slice", "timeline"):
        assert figure in headings
    assert len(test.get("plotly_chart")) == len([h for h in headings if h in words_of_figures()])


def words_of_figures() -> set[str]:
    from experiments.results.figures.sweep_figures import CAPTIONS

    return {name.replace("_", " ") for name in CAPTIONS}


def test_re_runs_tell_how_far_the_ranks_carry(page, sweep):
    sweep("checked", again=6)
    test = page("sweeps")
    assert not test.warning and "tau 1.00, N = 6" in test.info[0].value.replace("\\", "")
    assert "Kendall's tau 1.00" in words(test)


def test_a_link_opens_its_sweep(page, sweep):
    first = sweep("linked")
    sweep("newer")
    label = f"linked {first[:8]}"
    assert page("sweeps", address={"sweep": label}).selectbox(key="sweep").value == label


def test_a_storage_that_is_gone_is_named(page, sweep, stored):
    sweep("gone")
    (stored.folder / "gone.journal").unlink()
    test = page("sweeps")
    assert "the storage of this sweep is not there" in test.error[0].value.replace("\\", "")


def test_a_database_that_nobody_here_named_is_shown_and_not_connected_to(page, sweep):
    sweep("foreign", said="postgresql://them@elsewhere/sweeps")
    shown = page("sweeps").error[0].value.replace("\\", "")
    assert "postgresql://them@elsewhere/sweeps, which this store does not know" in shown
