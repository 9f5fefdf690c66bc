"""Sweep files: what they mean, and every mistake in them by the name of the setting."""

import json

import pytest
import yaml

from detr.errors import InputError
from experiments.sweeps.space import check_space, config_of, overrides_of
from experiments.sweeps.sweep_file import read_sweep

RECIPES = {"choices": {"a": ["schedule=official", "model.norm=post"], "b": ["schedule=abbreviated", "model.norm=pre"]}}


def read(tmp_path, space, overrides=(), **more):
    """The checked sweep of a file with this space."""
    spec = {"name": "x", "question": "?", "rungs": ["6 steps", "12 steps"], "space": space} | more
    (tmp_path / "x.yaml").write_text(json.dumps({"sweep": spec}))  # JSON is YAML
    sweep = read_sweep([f"sweep={tmp_path / 'x.yaml'}", *overrides])
    check_space(sweep.overrides, sweep.settings, sweep.known, sweep.rungs[0])
    return sweep


LR = {"float": [1e-5, 1e-2], "log": True}
SPACES = {
    "misspelt setting": ({"optim.lrr": LR}, "sweep.space.optim.lrr: unknown setting; did you mean optim.lr?"),
    "no form": ({"optim.lr": [1, 2]}, "sweep.space.optim.lr: give one of float"),
    "two forms": ({"optim.lr": {"float": [1, 2], "choices": [1, 2]}}, "give one of float"),
    "stray key": ({"optim.lr": LR | {"lag": 1}}, "sweep.space.optim.lr.lag: unknown; did you mean log?"),
    "reversed range": ({"optim.lr": {"float": [2, 1]}}, "sweep.space.optim.lr: low must be below high"),
    "log of zero": (
        {"optim.weight_decay": {"float": [0, 1], "log": True}},
        "sweep.space.optim.weight_decay: `low > 0`",
    ),
    "no step": ({"train.accumulate": {"int": [1, 4], "step": 0}}, "sweep.space.train.accumulate: `step > 0`"),
    "one choice": ({"model.norm": {"choices": ["pre"]}}, "sweep.space.model.norm.choices: give two or more"),
    "end out of range": ({"model.dropout": {"float": [0, 1.5]}}, "sweep.space.model.dropout: model.dropout=1.5: must"),
    "choice that a run refuses": (
        {"model.norm": {"choices": ["pre", "no"]}},
        "sweep.space.model.norm: model.norm='no'",
    ),
    "float for a whole number": ({"train.accumulate": {"float": [1, 3]}}, "train.accumulate=1.0: must be int"),
    "level that sets nothing": ({"r": {"choices": {"a": ["x.y=1"], "b": []}}}, "sweep.space.r: x.y: unknown setting"),
    "level that is no list": (
        {"r": {"choices": {"a": "optim.lr=1", "b": []}}},
        "sweep.space.r.choices.a: must be a list",
    ),
    "horizon": ({"schedule.horizon": {"choices": ["1 steps", "2 steps"]}}, "schedule.horizon cannot be searched"),
    "horizon in a level": ({"r": {"choices": {"a": ["horizon=5 steps"], "b": []}}}, "horizon cannot be searched"),
    "seed": ({"seed": {"int": [0, 3]}}, "sweep.space.seed: a seed is no setting to choose"),
    "taken name": ({"state": RECIPES}, "sweep.space.state: the name is taken"),
    "searched twice": ({"r": RECIPES, "model.norm": {"choices": ["pre", "post"]}}, "searches model.norm, but"),
    "condition on nothing": (
        {"schedule.warmup": {"float": [0, 0.1], "when": {"r": "a"}}},
        "schedule.warmup.when.r: must",
    ),
    "condition on no choice": (
        {"r": RECIPES, "schedule.warmup": {"float": [0, 0.1], "when": {"r": "c"}}},
        "sweep.space.schedule.warmup.when.r='c': choose from a, b",
    ),
}


@pytest.mark.parametrize("mistake", SPACES)
def test_a_bad_space_is_refused_by_the_name_of_the_setting(tmp_path, mistake):
    space, message = SPACES[mistake]
    with pytest.raises(InputError) as caught:
        read(tmp_path, space)
    assert message in str(caught.value)


KEYS = {
    "key": ({"trails": 3}, "sweep.trails: unknown; did you mean trials?"),
    "objective": ({"objective": "AP"}, "sweep.objective='AP': unknown"),
    "rung without unit": ({"rungs": [6, 12]}, "sweep.rungs: horizon='6'"),
    "falling rungs": ({"rungs": ["12 steps", "6 steps"]}, "lengths must rise"),
    "too few re-runs": ({"trust": {"configurations": 5}}, "sweep.trust.configurations=5: at least 6"),
    "trials": ({"trials": 0}, "sweep.trials=0"),
    "time limit": ({"time_limit_minutes": "5"}, "sweep.time_limit_minutes='5'"),
    "known recipe with a strange setting": ({"known": {"k": {"optim.l": 1}}}, "sweep.known.k.optim.l: unknown"),
    "known value out of range": ({"known": {"k": {"optim.lr": 5}}}, "sweep.known.k.optim.lr=5: is not in"),
}


@pytest.mark.parametrize("mistake", KEYS)
def test_a_bad_key_is_named(tmp_path, mistake):
    more, message = KEYS[mistake]
    with pytest.raises(InputError) as caught:
        read(tmp_path, {"optim.lr": LR}, **more)
    assert message in str(caught.value)


@pytest.mark.parametrize("override", ["horizon=9 steps", "ablation=lr_clip", "optim.lr=1e-3"])
def test_the_command_line_cannot_set_what_the_sweep_decides(tmp_path, override):
    with pytest.raises(InputError, match=override.partition("=")[0]):
        read(tmp_path, {"optim.lr": LR}, [override])


@pytest.mark.parametrize("key", ["loss.no_object_weight", "loss.weight_giou"])
def test_a_loss_is_no_objective_where_its_weights_are_searched(tmp_path, key):
    space = {"optim.lr": LR, key: {"float": [0.05, 0.5]}}
    with pytest.raises(InputError, match=rf"sweep.space.{key}: {key} changes what val/loss is"):
        read(tmp_path, space, objective="val/loss")
    assert read(tmp_path, space, objective="val/AP").metric == "val/AP"


def test_schedule_and_length_are_never_searched_together(tmp_path):
    """A part of schedules of unequal length is an unequal length."""
    with pytest.raises(InputError, match="schedule and length would be searched together"):
        read(tmp_path, {"recipe": RECIPES}, rungs=["1 %", "5 %"])
    sweep = read(tmp_path, {"recipe": RECIPES})
    lengths = {config_of(sweep.overrides, sweep.settings, {"recipe": r}, "9 steps", 0).schedule.horizon for r in "ab"}
    assert lengths == {"9 steps"}


def test_known_recipes_are_completed_from_the_configuration_and_heed_conditions(tmp_path):
    space = {"recipe": RECIPES, "optim.lr": LR, "schedule.warmup": {"float": [0.0, 0.2], "when": {"recipe": "b"}}}
    sweep = read(tmp_path, space, known={"one": {"recipe": "a"}, "two": {"recipe": "b", "optim.lr": 1e-3}})
    assert sweep.known["one"] == {"recipe": "a", "optim.lr": 1e-4}
    assert sweep.known["two"] == {"recipe": "b", "optim.lr": 1e-3, "schedule.warmup": 0.05}
    with pytest.raises(InputError, match=r"known.one.schedule.warmup: is not searched there"):
        read(tmp_path, space, known={"one": {"recipe": "a", "schedule.warmup": 0.1}})


def test_values_become_the_configuration_of_a_run(tmp_path):
    sweep = read(tmp_path, {"recipe": RECIPES, "optim.lr": LR}, ["train.evaluations=3"])
    chosen = {"recipe": "b", "optim.lr": 0.00123}
    assert overrides_of(sweep.settings, chosen) == [*RECIPES["choices"]["b"], "optim.lr=0.00123"]
    config = config_of(sweep.overrides, sweep.settings, chosen, "12 steps", seed=3)
    assert (config.optim.lr, config.model.norm, config.schedule.shape) == (0.00123, "pre", "warmup_cosine")
    assert (config.schedule.horizon, config.train.evaluations, config.seed) == ("12 steps", 3, 3)


def test_the_shipped_sweeps_are_valid():
    from experiments.definition.compose import CONF, options

    for name in options("sweep"):
        sweep = read_sweep([f"sweep={name}"])
        check_space(sweep.overrides, sweep.settings, sweep.known, sweep.rungs[0])
        assert f"sweep={name}" in (CONF / "sweep" / f"{name}.yaml").read_text()
        assert yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())["sweep"]["name"] == name
