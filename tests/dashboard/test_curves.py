"""The page of curves: its choices come from the address, and what was not drawn is told."""

import json
import math

import pytest
from mlflow.entities import Metric

ARMS = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]


@pytest.fixture(scope="module")
def parent(stored):
    return stored.ablation(2, name="curves")


def figures(test) -> list[dict]:
    return [json.loads(one.proto.spec) for one in test.get("plotly_chart")]


def lines(figure: dict) -> list[dict]:
    return [trace for trace in figure["data"] if trace["line"]["width"]]


def test_the_page_opens_on_losses_and_ap_of_all_arms(page, parent):
    test = page("curves", parent)
    (figure,) = figures(test)
    assert [one["text"] for one in figure["layout"]["annotations"]] == ["training loss", "validation loss", "AP x 100"]
    assert [one["name"] for one in lines(figure) if one["showlegend"]] == ARMS
    assert test.multiselect(key="seeds").value == [0, 1]


def test_a_link_opens_the_same_view(page, parent):
    address = {"figures": ["Learning rates", "Gradient and clipping"], "arms": ARMS[1:3], "seeds": "1", "over": "time",
               "seeds-as": "lines", "log-x": "true", "smoothing": "0.5"}  # fmt: skip
    rates, clipping = figures(page("curves", parent, address))
    assert {one["name"] for one in rates["data"]} == set(ARMS[1:3])
    assert rates["layout"]["xaxis"]["title"]["text"] == "time of training (seconds)"
    assert rates["layout"]["xaxis"]["type"] == "log" and "(seed 1)" in lines(clipping)[-1]["hovertemplate"]
    assert len(lines(clipping)) == 2 * len(clipping["layout"]["annotations"]) * 2  # raw and smoothed


def test_nothing_is_chosen(page, parent):
    test = page("curves", parent)
    test.multiselect(key="arms").set_value([]).run()
    assert "at least one figure" in test.info[0].value and not figures(test)


def test_metrics_that_were_not_logged_are_named_as_missing(page, parent):
    assert "Nothing of this was logged" in page("curves", parent, {"figures": "Parts of the loss"}).info[0].value


def test_values_that_are_not_finite_are_told(stored, page):
    parent = stored.ablation(1, missing=tuple((arm, 0) for arm in ARMS[1:]))
    run_id = stored.child(parent, ARMS[1], {"recipe": "official", "clip": "1.0"}, 0, failed=False, silent=True)
    stored.client.log_batch(
        run_id, [Metric("train/loss", value, 99, 30 + i) for i, value in enumerate((math.nan, math.inf))]
    )
    said = page("curves", parent).warning[0].value.replace("\\", "")
    assert f"train/loss of {ARMS[1]}, seed 0, is NaN or infinite 2 times, first at step 30" in said
