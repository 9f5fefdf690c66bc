"""Any runs side by side."""

import math

import pytest

from experiments.results.comparison import (
    all_runs,
    differing_settings,
    group_of,
    groups,
    matching,
    metric_frame,
    run_frame,
)
from experiments.results.reading.reader import StoredRun
from experiments.schema import names


def run(run_id: str, params: dict, metrics: dict | None = None, **tags: str) -> StoredRun:
    return StoredRun(run_id, "elsewhere", "FINISHED", 1000, 2000, tags, params, metrics or {})


RUNS = [
    run("x", {"lr": "1e-4", "seed": "0", "same": "1"}, {"val/AP": 0.5, "val/APL": -1.0}),
    run("y", {"lr": "3e-4", "seed": "0", "same": "1", "extra": "<b>"}, {"val/AP": math.inf}),
]


def test_only_settings_that_differ_are_compared():
    assert differing_settings(RUNS).to_dict("list") == {"lr": ["1e-4", "3e-4"], "extra": ["–", "<b>"]}
    assert differing_settings(RUNS[:1]).shape == (1, 0)


def test_metrics_that_a_run_lacks_are_nan():
    frame = metric_frame(RUNS, ["val/AP", "val/APL"])
    assert frame["val/AP"].tolist() == [0.5, math.inf] and frame["val/APL"].isna().all()


@pytest.mark.parametrize(("words", "found"), [("", "xy"), ("lr=1E-4", "x"), ("seed=0 extra", "y"), ("lr=2", "")])
def test_every_word_must_be_found(words, found):
    assert "".join(one.run_id for one in matching(RUNS, words)) == found


def test_runs_belong_to_their_ablation_or_experiment(stored):
    parent = stored.ablation(1, name="grouped")
    known, runs = groups(stored.store), all_runs(stored.store)
    children = [one for one in runs if one.tags.get(names.PARENT) == parent]
    assert {group_of(one, known) for one in children} == {f"grouped {parent[:8]}"}
    assert group_of(RUNS[0], known) == "elsewhere"
    assert parent not in [one.run_id for one in runs]
    assert run_frame(children, known)["state"].tolist() == ["finished"] * 4
