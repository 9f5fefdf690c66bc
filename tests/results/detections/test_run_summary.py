"""Figures of arms with several runs: means, spreads and pooled bins, and what the plots show of them."""

import numpy as np
import pandas as pd
import pytest

from experiments.results.detections.calibration import calibration_error, reliability
from experiments.results.detections.confusion import confusion
from experiments.results.detections.error_types import SPECIAL, TYPES
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import counts
from experiments.results.detections.run_summary import RunSummary, at_threshold, error_table, pooled_reliability
from experiments.results.figures import error_figures

ARMS = ["<b>a</b>", "b", "c"]


@pytest.fixture(scope="module")
def runs(noisy_scenes):
    """Two runs of one arm and one of another; a third arm has none."""
    annotations, detections = noisy_scenes(10, ties=False, num_images=30)
    truth, rng = read_truth(annotations), np.random.default_rng(0)

    def run(keep):
        kept = [one | {"score": rng.random()} for one in detections if rng.random() < keep]
        return RunSummary(match(read_detections(truth, kept)))

    return {ARMS[0]: [run(0.9), run(0.6)], ARMS[1]: [run(0.8)]}


def test_means_and_spreads_are_over_the_runs_of_an_arm(runs):
    frame = at_threshold(runs, 0.4).set_index("arm")
    found = [counts(run.matched, 0.4) for run in runs[ARMS[0]]]
    assert frame.loc[ARMS[0], "recall"] == pytest.approx(np.mean([one.recall for one in found]))
    assert frame.loc[ARMS[0], "recall_sd"] == pytest.approx(np.std([one.recall for one in found], ddof=1))
    assert frame.loc[ARMS[0], "N"] == 2 and np.isnan(frame.loc[ARMS[1], "F1_sd"])
    one = runs[ARMS[1]][0]
    assert frame.loc[ARMS[1], "D-ECE"] == calibration_error(reliability(one.matched, 0.4))
    best = frame.loc[ARMS[1]]
    assert best["best F1"] == one.curve["f1"].max() == counts(one.matched, best["best threshold"]).f1


def test_nothing_detected_is_no_failure(runs):
    truth = runs[ARMS[1]][0].matched.detections.truth
    nothing = RunSummary(match(read_detections(truth, [])))
    row = at_threshold({"c": [nothing]}, 0.5).iloc[0]
    assert row["AP50"] == row["recall"] == row["best F1"] == 0 and np.isnan(row["precision"])
    table = error_table({"c": [nothing]}, 0.5).set_index("type")
    assert table.loc["missed", "number"] == (~truth.crowd).sum()


def test_error_table_has_means_of_costs_and_numbers(runs):
    frame = error_table(runs, 0.3).set_index(["arm", "type"])
    pair = runs[ARMS[0]]
    for name in TYPES:
        row = frame.loc[(ARMS[0], name)]
        assert row["dAP50"] == pytest.approx(np.mean([run.costs[name] for run in pair]))
        assert row["number"] == np.mean([run.errors.counts(0.3)[name] for run in pair])
    assert frame.loc[(ARMS[0], SPECIAL[0])].isna().tolist() == [False, True]


def test_pooled_bins_are_those_of_all_detections_together(runs):
    pair = [run.matched for run in runs[ARMS[0]]]
    pooled = pooled_reliability(runs[ARMS[0]], 0.2)
    score = np.concatenate([one.detections.score[~one.ignored] for one in pair])
    hit = np.concatenate([one.hit[~one.ignored] for one in pair])
    for row in pooled[pooled["detections"] > 0].itertuples():
        chosen = (score >= max(row.low, 0.2)) & (score < row.high)
        assert row.detections == chosen.sum()
        assert row.precision == pytest.approx(hit[chosen].mean()) and row.score == pytest.approx(score[chosen].mean())
    assert pooled.loc[pooled["detections"] == 0, ["score", "precision"]].isna().all(axis=None)


def test_curves_have_a_band_from_the_lowest_to_the_highest_run(runs):
    figure = error_figures.precision_recall(runs, ARMS, 0.4)
    first = [trace for trace in figure.data if trace.legendgroup == "&lt;b&gt;a&lt;/b&gt;"]
    top, bottom, line = first[:3]
    curves = np.stack([run.precision for run in runs[ARMS[0]]])
    assert list(top.y) == pytest.approx(curves.max(axis=0)) and list(bottom.y) == pytest.approx(curves.min(axis=0))
    assert list(line.y) == pytest.approx(curves.mean(axis=0)) and "(2 runs)" in line.hovertemplate
    second = [trace for trace in figure.data if trace.legendgroup == "b"]
    assert len(first) == 12 and len(second) == 4  # one run has no band
    assert sum(trace.showlegend for trace in second) == 1
    assert [shape.x0 for shape in figure.layout.shapes] == [0.4] * 3


def test_bars_of_costs(runs):
    figure = error_figures.error_costs(runs, ARMS)
    main, special = figure.data[:2]
    assert list(main.x) == list(TYPES) and list(special.x) == list(SPECIAL)
    costs = np.array([[100 * run.costs[name] for name in TYPES] for run in runs[ARMS[0]]])
    assert list(main.y) == pytest.approx(costs.mean(axis=0))
    assert list(main.error_y.array) == pytest.approx(costs.max(axis=0) - costs.mean(axis=0))
    assert figure.data[2].error_y.array is None and figure.data[2].marker.color != main.marker.color


def test_bars_of_sizes_leave_out_what_was_not_stored():
    frame = pd.DataFrame({"arm": ["b", "b"], "val/AP": [0.2, 0.4], "val/APS": [np.nan, np.nan]})
    (bar,) = error_figures.sizes(frame, ARMS, ARMS).data
    assert list(bar.x) == ["all"] and list(bar.y) == pytest.approx([30])
    assert list(bar.error_y.arrayminus) == pytest.approx([10])
    assert error_figures.sizes(frame[["arm"]], ARMS, ARMS) is None


def test_confusion_shares_are_of_each_object_class(runs):
    matched = runs[ARMS[1]][0].matched
    names, table = matched.detections.truth.classes, confusion(matched, 0.3)
    (counted,) = error_figures.confusion_matrix(table, ["<i>", *names[1:]], is_share=False).data
    assert counted.y[0] == "&lt;i&gt;" and counted.z[-1][-1] is None and counted.z[0][0] == table[0, 0]
    (shares,) = error_figures.confusion_matrix(table, names, is_share=True).data
    assert sum(shares.z[0]) == pytest.approx(1) and sum(shares.z[4]) == 0  # the class without objects


def test_calibration_shows_bins_that_have_detections(runs):
    figure = error_figures.calibration(runs, ARMS, 0.5)
    frame = pooled_reliability(runs[ARMS[1]], 0.5).query("detections > 0")
    assert list(figure.data[2].x) == pytest.approx(frame["score"].tolist())
    assert list(figure.data[2].y) == pytest.approx(frame["precision"].tolist())
