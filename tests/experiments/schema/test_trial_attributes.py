"""Attributes of trials are written as they are read, and read strictly."""

import optuna
import pytest

from experiments.results.reading.sweep_trials import attributes_of
from experiments.schema.store import StoreError
from experiments.schema.trial_attributes import KINDS, TrialAttributes

FULL = TrialAttributes(
    place=0, surplus=True, known="official", reason="", stopped=True, metrics={"val/AP": 0.5}, steps=0, num_steps=4,
    seconds=0.0, mlflow_run_id="x", trial=0, rung="9 steps", machine="here",
)  # fmt: skip


@pytest.mark.parametrize("attributes", [FULL, TrialAttributes(), TrialAttributes(place=0, reason="")])
def test_attributes_survive_a_study(attributes):
    study = optuna.create_study()
    trial = study.ask()
    attributes.write(trial)
    trial.set_user_attr("of another tool", [1])
    assert attributes_of(trial) == attributes_of(study.trials[0]) == attributes
    assert TrialAttributes.from_dict(attributes.to_dict()) == attributes


def test_every_attribute_has_its_kind():
    assert KINDS.keys() == vars(TrialAttributes()).keys() and FULL.to_dict().keys() == KINDS.keys()
    assert TrialAttributes().to_dict() == {}


@pytest.mark.parametrize(
    ("key", "value"), [("place", "3"), ("place", -1), ("surplus", 1), ("metrics", {"val/AP": "x"}), ("rung", 5)]
)
def test_a_damaged_attribute_is_named(key, value):
    study = optuna.create_study()
    study.ask().set_user_attr(key, value)
    with pytest.raises(StoreError, match=f"trial 0 of the study is damaged: the attribute '{key}' cannot be"):
        attributes_of(study.trials[0])
