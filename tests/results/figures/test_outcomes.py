"""Frames in, figures out: values, colours, captions of what is missing."""

import numpy as np
import pandas as pd
import pytest

from experiments.results.figures import curves, outcomes
from experiments.schema.metrics import AP

ARMS = ["<b>a</b>", "b"]


def line(values: list[float], key: str = "val/loss", steps: list[int] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"step": steps or range(1, len(values) + 1), key: values})


def test_a_band_reaches_from_the_lowest_to_the_highest_seed():
    records = {("b", 0): line([1.0, 2.0]), ("b", 1): line([3.0, 6.0]), (ARMS[0], 0): line([9.0, 9.0])}
    band = curves.seed_band(records, "b", "val/loss")
    assert band[["step", "mean", "low", "high", "seeds"]].values.tolist() == [[1, 2, 1, 3, 2], [2, 4, 2, 6, 2]]


def test_a_value_that_a_seed_lacks_is_left_out_and_ap_shows_times_100():
    records = {("b", 0): line([0.1, 0.2, 0.3], "val/AP"), ("b", 1): line([0.3, 0.4], "val/AP")}
    band = curves.seed_band(records, "b", "val/AP")
    assert band["step"].tolist() == [1, 2, 3] and band["mean"].tolist() == pytest.approx([20, 30, 30])


def test_long_lines_are_averaged_and_keep_their_mean():
    band = curves.seed_band({("b", 0): line(list(np.arange(1000.0)))}, "b", "val/loss")
    assert len(band) == curves.POINTS and band["step"].iloc[-1] == 1000
    assert band["mean"].mean() == pytest.approx(499.5)


def test_averages_are_told():
    assert curves.averaged({("b", 0): line([1.0] * curves.POINTS)}, curves.LOSSES) == ""
    told = curves.averaged({("b", 0): line([1.0] * 1000)}, curves.LOSSES)
    assert "here up to 1000" in told and "200 means" in told


def test_values_that_are_not_finite_are_not_drawn():
    band = curves.seed_band({("b", 0): line([1.0, np.inf, np.nan, 2.0])}, "b", "val/loss")
    assert band["step"].tolist() == [1, 4] and band["high"].max() == 2


def test_curves_over_time_stand_at_the_mean_of_their_seeds():
    frames = [line([5.0, 4.0, 3.0]).assign(seconds=seconds) for seconds in ([1, 2, 3], [3, np.nan, 9])]
    band = curves.seed_band({("b", i): frame for i, frame in enumerate(frames)}, "b", "val/loss", "seconds")
    assert band["x"].tolist() == [2, 4, 6]


def test_smoothing_leaves_the_raw_line_and_evaluations_alone():
    records = {("b", 0): line([4.0, 0.0, 0.0], "train/loss").assign(**{"val/loss": [4.0, 0.0, 0.0]})}
    look = curves.Look(smoothing=0.5)
    raw, smooth = curves.arm_traces(records, "b", "train/loss", ARMS, look)
    assert list(raw.y) == [4, 0, 0] and raw.opacity < 1 and not raw.showlegend
    assert list(smooth.y) == pytest.approx([4, 4 / 3, 4 / 7]) and smooth.showlegend
    (evaluation,) = curves.arm_traces(records, "b", "val/loss", ARMS, look)
    assert list(evaluation.y) == [4, 0, 0]


def test_each_seed_may_have_its_line():
    records = {("b", i): line([float(i), 1.0]) for i in range(3)}
    lines = curves.arm_traces(records, "b", "val/loss", ARMS, curves.Look(each_seed=True))
    assert [one.y[0] for one in lines] == [0, 1, 2] and [one.showlegend for one in lines] == [True, False, False]
    assert len({one.line.color for one in lines}) == 1


def test_axes_follow_the_look():
    figure = curves.panels(
        {("b", 0): line([1.0])}, curves.LOSSES, ARMS, curves.Look(over="epoch", log_x=True, log_y=True)
    )
    assert figure.layout.xaxis.title.text == "epoch" and figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_thirty_arms_look_all_different():
    arms = [str(i) for i in range(30)]
    assert len({(curves.colour(arm, arms), curves.dash(arm, arms)) for arm in arms}) == 30


def test_an_arm_keeps_its_colour_where_others_are_missing():
    both = curves.panels({(ARMS[0], 0): line([1.0]), ("b", 0): line([2.0])}, curves.LOSSES, ARMS)
    one = curves.panels({("b", 0): line([2.0])}, curves.LOSSES, ARMS)
    assert both.data[1].line.color == one.data[0].line.color == curves.colour("b", ARMS)
    assert len({curves.colour(arm, ARMS) for arm in ARMS}) == 2


def test_names_from_data_are_text_in_figures():
    figure = curves.panels({(ARMS[0], 0): line([1.0, 2.0])}, curves.LOSSES, ARMS)
    assert figure.data[0].name == "&lt;b&gt;a&lt;/b&gt;"


def test_no_panel_where_nothing_was_logged():
    assert curves.panels({("b", 0): line([1.0])}, curves.RATES, ARMS) is None
    assert curves.panels({}, curves.LOSSES, ARMS) is None
    assert curves.entropy_metrics({("b", 0): line([1.0])}) == {}


def test_layers_of_the_entropy_are_in_order():
    frame = pd.DataFrame({f"diagnostics/attention_entropy_{i}": [0.5] for i in (10, 2, 0)})
    assert list(curves.entropy_metrics({("b", 0): frame}).values()) == [f"decoder layer {i}" for i in (0, 2, 10)]


def test_both_intervals_of_ap_stand_apart():
    table = pd.DataFrame(
        {"arm": ARMS, "AP": [0.3, 0.4], "AP_seeds_low": [0.2, np.nan], "AP_seeds_high": [0.4, np.nan],
         "AP_images": [0.29, 0.39], "AP_images_low": [0.25, 0.35], "AP_images_high": [0.36, 0.45]}
    )  # fmt: skip
    figure = outcomes.by_arm(table, pd.DataFrame({"arm": ["b"], "seed": [3], "val/AP": [0.4]}), AP, "AP")
    seeds, images, single = figure.data
    assert list(seeds.error_x.array) == pytest.approx([10, 0]) and seeds.customdata[1] == "unknown"
    assert list(images.x) == pytest.approx([29, 39])  # without the bias
    assert list(images.error_x.arrayminus) == pytest.approx([4, 4])
    assert list(single.x) == pytest.approx([40]) and list(single.y) == [0.7]
    assert figure.layout.yaxis.ticktext[0] == "&lt;b&gt;a&lt;/b&gt;"


def test_figures_of_nothing_are_empty():
    table = pd.DataFrame({"class": [], "difference": [], "low": [], "high": []})
    assert outcomes.class_differences(table).data == ()
