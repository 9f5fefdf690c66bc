"""Intervals over images against values left out one by one, the bootstrap, and closed forms."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.results import bootstrap, calibrate, image_intervals
from experiments.results.effects import Interval
from experiments.results.image_intervals import ImageSamples, image_ap, image_contrast, seeds_and_images


@pytest.fixture(scope="module")
def tables():
    first, second = calibrate.scenes(np.random.default_rng(0), 80)
    return {"a": [first, second], "b": [second]}


@pytest.fixture(scope="module")
def samples(tables):
    return image_intervals.sample_images(tables, replicates=200, seed=0)


def test_an_image_left_out_is_a_data_set_without_it(noisy_scenes):
    annotations, detections = noisy_scenes(0)
    left_out = image_intervals.left_out_ap(bootstrap.match(annotations, detections))
    for n, image in enumerate(annotations["images"]):
        rest = {
            **annotations,
            "images": [one for one in annotations["images"] if one is not image],
            "annotations": [one for one in annotations["annotations"] if one["image_id"] != image["id"]],
        }
        others = [one for one in detections if one["image_id"] != image["id"]]
        assert left_out[n] == pytest.approx(bootstrap.ap(rest, others), abs=1e-12)


def test_an_arm_is_the_mean_over_its_seeds(tables, samples):
    one, other = (bootstrap.weighted_ap(table, np.ones((1, 80), dtype=int))[0] for table in tables["a"])
    assert samples.observed["a"] == pytest.approx((one + other) / 2) and samples.observed["b"] == other
    left_out = [image_intervals.left_out_ap(table) for table in tables["a"]]
    assert samples.left_out["a"].to_numpy() == pytest.approx(np.mean(left_out, axis=0))


def test_a_difference_is_the_observed_one_with_the_jackknife_error(samples):
    got = image_contrast(samples, {"a": 1.0, "b": -1.0}, confidence=0.9)
    without = (samples.left_out["a"] - samples.left_out["b"]).to_numpy()
    # The error of the mean of pseudo-values, which is how Tukey defined it.
    pseudo = 80 * got.estimate - 79 * without
    assert got.estimate == samples.observed["a"] - samples.observed["b"]
    assert got.se == pytest.approx(pseudo.std(ddof=1) / np.sqrt(80)) and (got.n, got.df) == (80, 79)
    half = stats.t.ppf(0.95, 79) * got.se
    assert (got.low, got.high) == pytest.approx((got.estimate - half, got.estimate + half))
    assert got.p_value == pytest.approx(2 * stats.t.sf(abs(got.estimate) / got.se, 79))
    assert got.se == pytest.approx((samples.replicates["a"] - samples.replicates["b"]).std(), rel=0.3)


def test_the_jackknife_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=30)
    left_out = (values.sum() - values) / 29
    assert image_intervals.jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / np.sqrt(30))


def test_beyond_a_thousand_images_percentiles_stand_around_the_observed_difference(tables, monkeypatch):
    monkeypatch.setattr(image_intervals, "JACKKNIFE_LIMIT", 79)
    samples = image_intervals.sample_images(tables, replicates=200, seed=0)
    assert samples.left_out is None
    got = image_contrast(samples, {"a": 1.0, "b": -1.0})
    drawn = bootstrap.bootstrap_ap({}, tables, 200, 0, resample_seeds=False)
    difference = drawn["a"] - drawn["b"]
    assert (got.low, got.high) == pytest.approx(tuple(difference.quantile([0.025, 0.975])))
    assert got.estimate == samples.observed["a"] - samples.observed["b"] and got.se == pytest.approx(difference.std())
    arm, bias = image_ap(samples, "b")
    assert arm.high - arm.low == pytest.approx(2 * stats.t.ppf(0.975, 79) * drawn["b"].std())
    assert arm.estimate == pytest.approx(samples.observed["b"] - bias)


def test_ap_of_few_images_is_corrected_for_its_bias(samples):
    got, bias = image_ap(samples, "b")
    assert bias == pytest.approx(samples.replicates["b"].mean() - samples.observed["b"]) and bias > 0
    assert got.estimate == pytest.approx(samples.observed["b"] - bias)
    assert got.se == pytest.approx(image_intervals.jackknife_error(samples.left_out["b"].to_numpy()))


def test_identical_arms_differ_by_exactly_nothing(tables):
    samples = image_intervals.sample_images({"a": tables["b"], "again": tables["b"]}, replicates=20, seed=0)
    got = image_contrast(samples, {"a": 1.0, "again": -1.0})
    assert (got.estimate, got.low, got.high, got.se, got.p_value) == (0, 0, 0, 0, 1)


def test_arms_without_predictions_and_other_images_are_named(tables, samples):
    with pytest.raises(ValueError, match=r"arms \['c'\]; there are those of \['a', 'b'\]"):
        image_contrast(samples, {"a": 1.0, "c": -1.0})
    few, _ = calibrate.scenes(np.random.default_rng(0), 5)
    with pytest.raises(ValueError, match=r"\[5, 80\] images"):
        image_intervals.sample_images({**tables, "few": [few]}, replicates=2, seed=0)


def test_seeds_and_images_add_their_variances():
    seeds, images = Interval(2.0, 0, 4, 3, 0.4, 2.0, 0.1), Interval(2.1, 1, 3, 300, 0.3, 299.0, 0.1)
    got = seeds_and_images(seeds, images)
    df = 0.5**4 / (0.4**4 / 2 + 0.3**4 / 299)
    assert (got.estimate, got.se, got.n, got.df) == (2.0, pytest.approx(0.5), 3, pytest.approx(df))
    assert got.high - got.estimate == pytest.approx(stats.t.ppf(0.975, df) * 0.5)
    percentile = Interval(2.1, 1, 3, 5000, 0.3, math.inf, 0.1)
    assert seeds_and_images(seeds, percentile).df == pytest.approx(0.5**4 / (0.4**4 / 2))


def test_seeds_and_images_are_unknown_where_one_of_them_is():
    seeds = Interval(2.0, 0, 4, 3, 0.4, 2.0, 0.1)
    unknown = Interval(math.nan, math.nan, math.nan, 0, math.nan, math.nan, math.nan)
    assert math.isnan(seeds_and_images(seeds, unknown).low) and math.isnan(seeds_and_images(unknown, seeds).low)
    certain = Interval(0.0, 0.0, 0.0, 3, 0.0, 2.0, 1.0)
    assert seeds_and_images(certain, certain) == certain


def test_undefined_replicates_are_left_out():
    replicates = pd.DataFrame({"a": [0.1, 0.2, np.nan, 0.3], "b": [0.0, 0.1, 0.1, 0.1]})
    samples = ImageSamples(2000, pd.Series({"a": 0.2, "b": 0.1}), None, replicates)
    got = image_contrast(samples, {"a": 1.0, "b": -1.0})
    assert (got.n, got.se) == (2000, pytest.approx(np.std([0.1, 0.1, 0.2], ddof=1)))
