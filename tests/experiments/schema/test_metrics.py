"""Metrics know their direction, their unit and how people read them."""

import pytest

from experiments.schema.metrics import AP, EXAMPLES, Metric, direction, in_points


@pytest.mark.parametrize(
    ("key", "better", "label", "unit", "shown", "precision"),
    [
        ("val/AP", "higher", "AP", "points", "+3.2", "AP"),
        ("val/APS", "higher", "APS", "points", "+3.2", "APS"),
        ("val/AP50", "higher", "AP50", "points", "+3.2", "AP50"),
        ("val/AP/traffic light", "higher", "AP of traffic light", "points", "+3.2", "AP/traffic light"),
        ("val/AR100", "higher", "AR100", "points", "+3.2", None),
        ("val/ema/AP", "higher", "ema/AP", "points", "+3.2", None),
        ("val/ema/loss", "lower", "val ema loss", "val ema loss", "+0.03", None),
        ("val/loss", "lower", "val loss", "val loss", "+0.03", None),
        ("val/loss_giou", "lower", "val loss_giou", "val loss_giou", "+0.032", None),
        ("train/loss", "lower", "train loss", "train loss", "+0.03", None),
        ("seconds", "lower", "seconds", "seconds", "0.0", None),
    ],
)
def test_a_metric_that_is_known_by_its_name(key, better, label, unit, shown, precision):
    metric = Metric.from_spec(key)
    assert (metric.better, metric.label, metric.unit, metric.precision) == (better, label, unit, precision)
    assert metric.difference(0.032) == shown and Metric.from_spec(metric.spec) == metric


def test_every_example_has_a_direction():
    assert all(direction(key) for key in EXAMPLES)
    assert in_points("diagnostics/AP_layer_3") and not in_points("val/APs") and not in_points("val/loss")


def test_the_stored_name_is_the_one_of_mlflow():
    assert Metric("seconds").column == "progress/seconds"
    assert Metric("val/AP/naïve <b>").column == "val/AP/na_ve _b_"


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_diagnostic_says_which_values_are_better(better):
    metric = Metric.from_spec({"name": "diagnostics/query_use", "better": better})
    assert metric.better == better and metric.sign == (1 if better == "higher" else -1)
    assert Metric.from_spec(metric.spec) == metric


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.2"), (-0.006, "−0.6"), (0.0001, "0.0"), (-0.0001, "0.0"), (0.1, "+10.0")]
)
def test_differences_of_ap_are_points(value, text):
    assert AP.difference(value) == text


def test_a_true_minus_and_the_metrics_own_decimals():
    assert Metric("val/loss", "lower").difference(-0.123) == "−0.12"
    assert Metric("seconds", "lower").shown(-61.26) == "−61.3"


WRONG = [
    ("ap", r"unknown metric 'ap'; .*any logged one"),
    ("val/", "unknown metric"),
    (3, "give a metric's name"),
    ({"name": "val/AP", "beter": "lower"}, "give a metric's name"),
    ("val/APs", "did you mean val/AP"),
    ("diagnostics/query_use", "say which values of diagnostics/query_use are better"),
    ({"name": "val/AP", "better": "smaller"}, "better: higher or better: lower, not 'smaller'"),
    ({"name": "val/loss", "margin": -1}, "margin of val/loss must be a positive number"),
]


@pytest.mark.parametrize(("spec", "said"), WRONG, ids=[str(spec) for spec, _ in WRONG])
def test_mistakes_are_named(spec, said):
    with pytest.raises(ValueError, match=said):
        Metric.from_spec(spec)
