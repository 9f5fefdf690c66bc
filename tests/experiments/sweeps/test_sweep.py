"""Sweeps on a tiny set: the whole command, and what becomes of it when processes are killed or join."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from detr.config_io import flatten, to_dict
from experiments.definition.arms import plan
from experiments.results.figures.sweep_figures import figures
from experiments.results.reading.sweep_trials import holders, load_sweep, sweeps, trial_frame
from experiments.results.report.command import main as detr_report
from experiments.results.trust import trust_frame
from experiments.runs.stop import Stop
from experiments.schema import names
from experiments.schema.store import load_store
from experiments.sweeps.space import config_of
from experiments.sweeps.sweep_file import read_sweep
from experiments.sweeps.trial import SEARCH, open_phase, work

ROOT = Path(__file__).resolve().parents[3]
SPACE = {
    "recipe": {
        "choices": {
            "official": ["schedule=official", "model.norm=post"],
            "abbreviated": ["schedule=abbreviated", "model.norm=pre"],
        }
    },
    "optim.lr": {"float": [1e-4, 1e-2], "log": True},
    "schedule.warmup": {"float": [0.0, 0.2], "when": {"recipe": "abbreviated"}},
}
TINY = {
    "sweep": {
        "name": "tiny",
        "question": "Does it work?",
        "space": SPACE,
        "known": {"official": {"recipe": "official", "optim.lr": 1e-4}},
        "objective": "val/loss",
        "sampler": {"name": "tpe", "seed": 0, "n_startup_trials": 4},
        "pruner": {"name": "halving", "reduction_factor": 2},
        "trials": 8,
        "rungs": ["4 steps", "8 steps"],
    },
    "train": {"evaluations": 2, "batch_size": 4, "diagnostics": False},
    "data": {"shapes_num_train": 12, "shapes_num_val": 4, "verify_images": False},
    "model": {"hidden_dim": 32, "backbone_width": 8, "num_encoder_layers": 1, "num_decoder_layers": 2},
}


def sweep_file(folder, **changes):
    """Path of a tiny sweep with these changes below `sweep:`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(json.dumps(TINY))
    content["sweep"] |= changes
    path = folder / f"{content['sweep']['name']}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def searched(tmp_path_factory, command):
    """A store in which the tiny sweep was run to its end."""
    store = tmp_path_factory.mktemp("sweep")
    path = sweep_file(store)
    done = command(store, f"sweep={path}", "launcher=local", program="sweep.py")  # two processes have a test below
    assert done.returncode == 0, done.stdout + done.stderr
    return store, path, done


@pytest.fixture
def inside(searched, monkeypatch):
    """The store of the sweep, for work in this process."""
    monkeypatch.setenv("DETR_STORE", str(searched[0] / "mlflow.yaml"))
    monkeypatch.chdir(searched[0])
    return load_store()


def results_of(store):
    return load_sweep(store, sweeps(store)["run_id"].iloc[0])


@pytest.fixture(scope="module")
def results(searched):
    store = load_store(searched[0] / "mlflow.yaml")
    found = sweeps(store)
    return load_sweep(store, found[found["name"] == "tiny"]["run_id"].iloc[0])


def test_every_place_ends_once_and_known_recipes_come_first(results):
    table = trial_frame(results.study, results.objectives)
    assert sorted(table["place"]) == list(range(8)) and set(table["state"]) == {"finished", "pruned"}
    first = table[table["number"] == 0].iloc[0]
    assert first["known"] == "official" and first["optim.lr"] == 1e-4


def test_pruned_trials_stopped_early_and_finished_ones_did_not(results):
    table = trial_frame(results.study, results.objectives)
    assert (table.loc[table["state"] == "finished", "steps"] == 4).all()
    assert (table.loc[table["state"] == "pruned", "steps"] == 2).all() and (table["num_steps"] == 4).all()
    assert 0 < (table["state"] == "pruned").sum() < 8


def test_mlflow_has_a_nested_run_a_trial_and_marks_the_pruned_ones(searched, results):
    store = searched[0]
    client = MlflowClient(f"sqlite:///{store}/store/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{results.run_id}'")
    table = trial_frame(results.study, results.objectives).set_index("run_id")
    by_id = {run.info.run_id: run for run in children}
    assert len(children) == 8 + 6 and set(table.index) <= set(by_id)
    for run_id, row in table.iterrows():
        run = by_id[run_id]
        assert run.data.tags[names.STATE] == row["state"]
        assert run.info.status == ("FINISHED" if row["state"] == "finished" else "KILLED")
        assert run.data.metrics["val/loss"] == pytest.approx(row["val/loss"])
        assert float(run.data.params["optim.lr"]) == row["optim.lr"]
        assert run.data.params["factor.recipe"] == row["recipe"]


def test_intermediate_values_are_the_evaluations_of_the_run(searched, results):
    for trial in results.study.trials:
        folder = next((searched[0] / "runs").glob(f"tiny-*/trials/{trial.user_attrs['place']:03d}/seed-0"))
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        losses = [r["metrics"]["val/loss"] for r in records if "val/loss" in r["metrics"]]
        assert trial.intermediate_values == dict(enumerate(losses, start=1))
        assert not (folder / "checkpoints").exists()  # a sweep of many runs keeps no weights


def test_six_configurations_are_run_again_from_the_start_with_a_new_seed(searched, results):
    table = trust_frame(results)
    assert len(table) == 6 and table["number"].is_unique and (table["rung"] == "8 steps").all()
    best = trial_frame(results.study, results.objectives).query("state == 'finished'")
    assert best.loc[best["val/loss"].idxmin(), "number"] in table["number"].tolist()
    for folder in (searched[0] / "runs").glob("tiny-*/trust/*/"):
        config = json.loads((folder / "seed-1" / "config.json").read_text())
        lines = (folder / "seed-1" / "records.jsonl").read_text().splitlines()
        assert config["schedule"]["horizon"] == "8 steps" and json.loads(lines[0])["step"] == 1
    assert "tau" in searched[2].stdout and "screening only" not in searched[2].stdout


def test_the_best_is_an_ablation_that_run_takes(searched, results, inside):
    """Its arms are the configurations of the trials, at the longer rung."""
    _, path, done = searched
    sweep = read_sweep([f"sweep={path}"])
    file = re.search(r"run.py ablation=(\S+)", done.stdout)[1]
    found = plan([f"ablation={file}", "seeds=[0,1]"])
    table = trial_frame(results.study, results.objectives).query("state == 'finished'")
    number = int(table.loc[table["val/loss"].idxmin(), "number"])
    values = {"official": sweep.known["official"], f"trial {number}": results.study.trials[number].params}
    expected = {n: config_of(sweep.overrides, sweep.settings, v, "8 steps", 0) for n, v in values.items()}
    assert found.design.baseline == "settings=official" and found.design.seeds == (0, 1)
    for arm in found.arms:
        mine, theirs = flatten(to_dict(arm.config)), flatten(to_dict(expected[arm.levels["settings"]]))
        assert mine == theirs


def test_figures_and_report_need_nothing_from_outside(searched, results):
    made = figures(results)
    assert {"history", "intermediate_values", "timeline", "slice", "parallel_coordinate", "importances"} <= set(made)
    page = next((searched[0] / "runs").glob("tiny-*/report/report.html")).read_text()
    assert 'src="http' not in page and "plotly.js v" in page
    assert "How far the ranks carry" in page and "Kendall" in page
    shown = pd.read_csv(next((searched[0] / "runs").glob("tiny-*/report/trials.csv")))
    assert shown["val/loss"].tolist() == trial_frame(results.study, results.objectives)["val/loss"].tolist()


def test_report_can_be_made_again_from_the_store(inside, tmp_path, capsys):
    assert detr_report(["--sweep", "tiny", "--output", str(tmp_path)]) == 0
    assert "Kendall" in (tmp_path / "report.md").read_text() and "tau" in capsys.readouterr().out
    assert detr_report(["--sweep", "nothing"]) == 2
    assert "no sweep named 'nothing'" in capsys.readouterr().err


def start(store, path, *overrides):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments/sweep.py"), f"sweep={path}", *overrides],
        cwd=store,
        env=os.environ | {"DETR_STORE": str(store / "mlflow.yaml"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_commands_on_one_study_and_a_killed_worker(searched):
    """Both start at the same time; a worker is killed in the middle of a trial; every place ends once."""
    store = searched[0]
    path = sweep_file(store, name="joined", trials=4, rungs=["120 steps"], pruner={"name": "none"})
    commands = [start(store, path, "workers=1") for _ in range(2)]
    victim, deadline = None, time.monotonic() + 200
    while victim is None and time.monotonic() < deadline:
        for records in (store / "runs").glob("joined-*/trials/*/seed-0/records.jsonl"):
            if records.read_text().count("\n") > 70:  # past the first evaluation and its checkpoint
                victim = records
                break
        time.sleep(0.05)
    holder = next(int(p.name) for p in Path("/proc").glob("[0-9]*") if _works_at(p, victim.parents[1]))
    os.kill(holder, signal.SIGKILL)
    texts = [process.communicate(timeout=300)[0] for process in commands]
    assert [process.returncode for process in commands] == [0, 0], texts
    assert sum("a worker died with code -9" in text for text in texts) == 1
    study = optuna.load_study(
        study_name=victim.parents[3].name,
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(store / "runs/sweeps.journal"))
        ),
    )
    held = holders(study)
    assert sorted(held) == [0, 1, 2, 3] and {t.state for t in held.values()} == {TrialState.COMPLETE}
    dead = [t for t in study.trials if t.state == TrialState.FAIL]
    assert len(dead) == 1 and f"{dead[0].user_attrs['place']:03d}" == victim.parents[1].name
    assert held[dead[0].user_attrs["place"]].params == dead[0].params
    steps = [json.loads(line)["step"] for line in victim.read_text().splitlines() if "train/loss" in line]
    assert steps == list(range(1, 121))  # it went on where its checkpoint was, and no step is there twice


def _works_at(process, place):
    """Whether a process of /proc is the worker that holds the lock of this place."""
    try:
        ours = b"experiments.sweeps.trial" in (process / "cmdline").read_bytes()
        return ours and any(link.resolve() == place / "lock" for link in (process / "fd").iterdir())
    except OSError:  # it has ended
        return False


class StopAfter(Stop):
    """Asks to stop when it has been looked at so many times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def phase_of(inside, tmp_path, overrides=(), **changes):
    sweep = read_sweep([f"sweep={sweep_file(tmp_path, **changes)}", *overrides])
    from experiments.sweeps.study import open_storage, storage_address, study_name

    name = study_name(sweep, open_storage(storage_address(sweep, inside), sweep, inside))
    return open_phase(SEARCH, name, sweep)


def test_a_stopped_trial_goes_on_with_its_evaluations_known(inside, tmp_path):
    changes = {"name": "stopped", "trials": 1, "rungs": ["6 steps"]}
    phase = phase_of(inside, tmp_path, ["train.evaluations=3"], **changes)
    work(phase, inside, StopAfter(5), math.inf)  # once before the trial, then after each of its records
    first = phase.study.trials[0]
    assert first.state == TrialState.FAIL and "reason" not in first.user_attrs and len(first.intermediate_values) == 1
    work(phase, inside, Stop(), math.inf)
    again = phase.study.trials[1]
    assert again.state == TrialState.COMPLETE and again.params == first.params
    assert len(again.intermediate_values) == 3
    assert again.intermediate_values[1] == first.intermediate_values[1]


def test_several_seeds_give_their_mean_and_wilcoxon_prunes_between_them(inside, tmp_path):
    changes = {"name": "seeds", "trials": 2, "rungs": ["2 steps"], "pruner": {"name": "none"}}
    phase = phase_of(inside, tmp_path, ["train.evaluations=1", "seeds=[0,1]"], **changes)
    work(phase, inside, Stop(), math.inf)
    for trial in phase.study.trials:
        folder = phase.directory / f"{trial.user_attrs['place']:03d}"
        losses = [
            json.loads((folder / f"seed-{seed}" / "records.jsonl").read_text().splitlines()[-1])["metrics"]["val/loss"]
            for seed in (0, 1)
        ]
        assert losses[0] != losses[1] and trial.value == pytest.approx(sum(losses) / 2)
        assert trial.user_attrs["metrics"]["val/loss"] == pytest.approx(trial.value)
        assert trial.user_attrs["steps"] == 4


def test_a_trial_that_diverges_counts_as_pruned_and_the_search_goes_on(inside, tmp_path):
    space = {"optim.lr": {"choices": [1e30, 1e-3]}}
    known = {"absurd": {"optim.lr": 1e30}, "sane": {"optim.lr": 1e-3}}
    phase = phase_of(inside, tmp_path, name="diverge", space=space, known=known, trials=2, rungs=["6 steps"])
    work(phase, inside, Stop(), math.inf)
    table = trial_frame(phase.study, phase.sweep.objectives).set_index("known")
    assert table["state"].to_dict() == {"absurd": "pruned", "sane": "finished"}
    assert table.loc["absurd", "reason"].startswith("NonFiniteLoss")


def test_several_objectives_give_a_front(inside, tmp_path):
    changes = {"objective": ["val/loss", "seconds"], "pruner": "none", "rungs": ["2 steps"], "trials": 3}
    phase = phase_of(inside, tmp_path, ["train.evaluations=1"], name="front", **changes)
    work(phase, inside, Stop(), math.inf)
    table = trial_frame(phase.study, phase.sweep.objectives)
    assert table[["val/loss", "seconds"]].notna().all().all() and 1 <= len(phase.study.best_trials) <= 3


def test_nothing_is_begun_after_the_time_limit(inside, tmp_path):
    phase = phase_of(inside, tmp_path, name="late")
    work(phase, inside, Stop(), time.time() - 1)
    assert not phase.study.trials


def test_mistakes_are_answered_with_exit_code_2(inside, tmp_path, capsys):
    from experiments.sweep import main

    path = sweep_file(tmp_path, name="wrong")
    for arguments, message in (
        ([f"sweep={path}", "sweep.pruner=halfing"], "sweep.pruner='halfing': choose from halving"),
        (["sweep=lrclip"], "unknown sweep; did you mean lr_clip?"),
        ([], "sweep=: name a sweep"),
        ([f"sweep={path}", "storage=foo://me@host/x"], "storage=foo://me@host/x: cannot be opened"),
        ([f"sweep={path}", "storage=foo://me:secret@host/x"], "storage: holds a password"),
        ([f"sweep={path}", "storage='foo://me@host/x?password=secret'"], "storage: holds a password"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said and "secret" not in said


def test_plan_runs_nothing(inside, tmp_path, capsys):
    from experiments.sweep import main

    assert main([f"sweep={sweep_file(tmp_path, name='planned')}", "plan=true"]) == 0
    assert "8 trials of 4 steps" in capsys.readouterr().out and not list(inside.run_root.glob("planned-*"))
