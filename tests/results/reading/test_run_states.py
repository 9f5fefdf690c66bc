"""How far runs are, by what they logged and when."""

import pandas as pd
import pytest

from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.run_states import (
    SILENT_AFTER,
    display_states,
    last_signs,
    run_states,
    spoken,
    time_left,
)
from experiments.schema import names
from experiments.schema.design import Design
from experiments.schema.metrics import AP

NOW = 1e6
DESIGN = Design(
    name="n", question="?", design="listed", factors={}, arms={"a": {}, "b": {}}, baseline="a", primary=None,
    horizon="60 steps", seeds=(0, 1, 2),
)  # fmt: skip


def run(arm: str, seed: int, state: str, step: float = 30, **more) -> dict:
    place = {names.STEP: step, names.NUM_STEPS: 60, names.SECONDS: 2 * step, names.EPOCH: 1.5}
    return {"run_id": f"{arm}{seed}", "arm": arm, "seed": seed, "state": state, "error": "", **place, **more}


@pytest.fixture
def states():
    rows = [
        run("a", 0, "finished", 60, **{"val/AP": 0.4}),
        run("a", 1, "running"),
        run("a", 2, "running", 15),
        run("b", 0, "failed", error="NonFiniteLoss: step 9: the loss is nan\ntrace"),
        run("b", 1, "failed", error="OSError: full"),
    ]
    signs = {"a1": NOW - 5, "a2": NOW - SILENT_AFTER - 1}
    return run_states(AblationResults("p", DESIGN, pd.DataFrame(rows)), signs, NOW)


def test_every_planned_run_has_its_state(states):
    assert states["state"].tolist() == ["finished", "running", "silent", "diverged", "failed", "planned"]
    assert states["done"].tolist() == [1, 0.5, 0.25, 0.5, 0.5, 0]


def test_time_left_is_at_the_speed_so_far(states):
    assert states["left"].dropna().tolist() == [60]  # 30 of 60 steps took 60 seconds
    assert time_left(states) == 60 + 120  # one more planned run of 120 seconds behind it
    assert pd.isna(time_left(states[states["state"] != "running"]))


def test_states_read_as_text(states):
    shown = display_states(states, AP)
    assert shown["time left"].tolist() == ["–", "1 min", "–", "–", "–", "–"]
    assert shown["error"][3] == "NonFiniteLoss: step 9: the loss is nan" and shown["AP"][0] == "40.0"


@pytest.mark.parametrize(
    ("seconds", "words"), [(10, "under a minute"), (90, "2 min"), (12000, "3 h 20 min"), (200000, "2 days")]
)
def test_durations_in_words(seconds, words):
    assert spoken(seconds) == words


def test_a_sign_is_the_newest_of_steps_and_system_metrics(stored):
    run_id = stored.run({names.STATE: "running"}, {}, [(names.STEP, 1.0, 1000), (names.STEP, 2.0, 2000)], {})
    quiet = stored.run({names.STATE: "running"}, {}, [], {})
    runs = pd.DataFrame({"run_id": [run_id, quiet], "state": ["running", "running"]})
    results = AblationResults("p", DESIGN, runs)
    assert last_signs(stored.store, results) == {run_id: 2.0}
    assert last_signs(stored.store, AblationResults("p", DESIGN, runs.assign(state="finished"))) == {}
