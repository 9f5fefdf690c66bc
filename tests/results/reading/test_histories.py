"""Histories of many runs: by run and step, with what is not finite kept and told."""

import math

import pandas as pd
import pytest
from mlflow.entities import Metric

from experiments.results.reading.histories import all_points, as_records, load_history, not_finite

RUNS = pd.DataFrame({"run_id": ["x", "y"], "arm": ["a", "b"], "seed": [0, 3]})


def history(*points: tuple[str, int, float]) -> pd.DataFrame:
    frame = pd.DataFrame(points, columns=["run_id", "step", "value"])
    return frame.assign(run_id=pd.Categorical(frame["run_id"], categories=["x", "y", "z"]), time=0)


def test_metrics_of_a_run_meet_at_their_steps():
    histories = {
        "train/loss": history(("x", 1, 5.0), ("x", 2, 4.0), ("y", 1, 6.0), ("z", 1, 0.0)),
        "val/AP": history(("x", 2, 0.5)),
        "progress/epoch": history(("x", 1, 0.1), ("x", 2, 0.2)),
        "nothing": history(),
    }
    records = as_records(histories, RUNS)
    assert list(records) == [("a", 0), ("b", 3)]  # z is no run of these
    frame = records["a", 0]
    assert frame["step"].tolist() == [1, 2] and frame["epoch"].tolist() == [0.1, 0.2]
    assert frame["val/AP"].tolist() == pytest.approx([math.nan, 0.5], nan_ok=True)
    assert as_records({}, RUNS) == as_records({"nothing": history()}, RUNS) == {}
    assert len(all_points(histories, RUNS)) == 6


def test_what_is_not_finite_is_counted():
    odd = history(("x", 1, 5.0), ("x", 2, math.nan), ("x", 3, math.inf), ("y", 7, -math.inf))
    found = not_finite({"train/loss": odd, "fine": history(("x", 1, 1.0))}, RUNS)
    assert found.values.tolist() == [["a", 0, "train/loss", 2, 2], ["b", 3, "train/loss", 1, 7]]
    assert not_finite({}, RUNS).empty


def test_ap_of_nothing_to_find_is_left_out_and_nan_is_kept(stored):
    run_id = stored.run({"detr.state": "finished"}, {}, [("val/APL", -1.0, 1), ("val/APL", math.nan, 2)], {})
    stored.client.log_batch(run_id, [Metric("val/APL", 0.4, 3, 3), Metric("train/x", -1.0, 1, 1)])
    assert load_history(stored.store, [run_id], "val/APL")["step"].tolist() == [2, 3]
    assert load_history(stored.store, [run_id], "train/x")["value"].tolist() == [-1]
