"""Effects against closed forms, the table of half-widths, and references from scipy and least squares."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from experiments.results import effects

FACTORS = {"lr": [1e-4, 3e-4], "norm": ["post", "pre"], "clip": [None, 0.1]}


def runs_of(values: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [(arm, s, v) for arm, row in values.items() for s, v in enumerate(row)], columns=["arm", "seed", "AP"]
    )


def factorial(factors: dict[str, list], metric, num_seeds: int = 3) -> pd.DataFrame:
    """A full factorial with metric(cell, seed)."""
    cells = [dict(zip(factors, cell, strict=True)) for cell in itertools.product(*factors.values())]
    return pd.DataFrame(
        [{**cell, "seed": seed, "AP": metric(cell, seed)} for cell in cells for seed in range(num_seeds)]
    )


@pytest.mark.parametrize(("n", "factor"), [(2, 8.98), (3, 2.48), (5, 1.24), (8, 0.84)])
def test_half_width_table(n, factor):
    assert effects.half_width_factor(n) == pytest.approx(factor, abs=0.005)


def test_half_width_of_one_difference_is_unknown():
    assert np.isnan(effects.half_width_factor(1))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9))
def test_paired_difference_is_the_paired_t_test(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    if np.std(np.subtract(a, b)) < 1e-6:
        return  # scipy itself warns of lost precision
    got = effects.paired_difference(runs_of({"a": a, "b": b}), "a", "b", "AP", confidence=0.9)
    want = stats.ttest_rel(a, b)
    low, high = want.confidence_interval(0.9)
    assert (got.n, got.estimate) == (len(pairs), pytest.approx(np.mean(a) - np.mean(b), abs=1e-12))
    assert (got.low, got.high, got.p_value) == pytest.approx((low, high, want.pvalue), rel=1e-6, abs=1e-9)
    assert got.high - got.estimate == pytest.approx(
        effects.half_width_factor(got.n, 0.9) * got.se * got.n**0.5, rel=1e-6
    )


def test_pairs_are_by_seed_number_and_incomplete_ones_drop_out():
    frame = runs_of({"a": [0.5, 0.6, np.nan, 0.8], "b": [0.4, 0.4, 0.4]}).sample(frac=1, random_state=0)
    got = effects.paired_difference(frame, "a", "b", "AP")
    assert (got.n, got.estimate) == (2, pytest.approx(0.15))


def test_one_pair_has_an_estimate_and_no_interval():
    got = effects.paired_difference(runs_of({"a": [0.5], "b": [0.4]}), "a", "b", "AP")
    assert (got.n, got.estimate) == (1, pytest.approx(0.1))
    assert np.isnan([got.low, got.high, got.se, got.p_value]).all()


def test_no_common_seed_is_n_zero():
    assert effects.paired_difference(runs_of({"a": [0.5, np.nan], "b": [np.nan, 0.4]}), "a", "b", "AP").n == 0


def test_an_arm_against_itself_differs_by_exactly_nothing():
    frame = runs_of({"a": [0.5, 0.7, 0.1]})
    assert effects.paired_difference(frame, "a", "a", "AP") == effects.Interval(0, 0, 0, 3, 0, 2, 1)


def test_constant_difference_is_certain():
    assert effects.paired_difference(runs_of({"a": [0.5, 0.75], "b": [0.25, 0.5]}), "a", "b", "AP").p_value == 0


def test_unknown_arm_and_repeated_seed_are_named():
    frame = runs_of({"a": [0.5], "b": [0.4]})
    with pytest.raises(ValueError, match=r"'c'.*\['a', 'b'\]"):
        effects.paired_difference(frame, "c", "b", "AP")
    with pytest.raises(ValueError, match=r"'a' has more than one run of seed \[0\]"):
        effects.paired_difference(pd.concat([frame, frame.head(1)]), "a", "b", "AP")


def test_factorial_recovers_effects_whatever_the_seeds_add():
    def metric(cell, seed):
        lr, pre, clip = cell["lr"] == 3e-4, cell["norm"] == "pre", cell["clip"] == 0.1
        return 0.3 + 0.02 * lr + 0.05 * pre - 0.01 * clip + 0.04 * lr * pre + 10.0**seed

    got = effects.factorial_effects(factorial(FACTORS, metric), FACTORS, "AP").set_index("effect")
    # In the model with 0/1 factors, the main effect is the average over the other factor: 0.02 + 0.04 / 2.
    want = {"lr": 0.04, "norm": 0.07, "clip": -0.01, "lr x norm": 0.02, "lr x clip": 0, "norm x clip": 0}
    assert got["estimate"].to_dict() == pytest.approx(want, abs=1e-12)
    assert got.loc["clip", ["level", "baseline"]].tolist() == [0.1, None]
    assert got["se"].max() < 1e-12
    assert set(got["n"]) == {24} and set(got["df"]) == {14}


def test_standard_error_of_a_full_factorial_is_two_sigma_over_root_runs():
    rng = np.random.default_rng(0)
    frame = factorial(FACTORS, lambda cell, seed: rng.normal())
    got = effects.factorial_effects(frame, list(FACTORS), "AP")
    table = frame["AP"].to_numpy().reshape(8, 3)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    sigma = np.sqrt(np.sum(residual**2) / 14)
    assert got["se"].to_numpy() == pytest.approx(np.full(6, 2 * sigma / np.sqrt(24)))
    assert got["high"].sub(got["estimate"]).to_numpy() == pytest.approx(stats.t.ppf(0.975, 14) * got["se"])
    assert got["p_value"].to_numpy() == pytest.approx(2 * stats.t.sf(np.abs(got["estimate"] / got["se"]), 14))


def test_false_alarms_of_the_factorial_are_five_percent():
    rng = np.random.default_rng(1)
    p = [
        effects.factorial_effects(factorial(FACTORS, lambda c, s: rng.normal() + 5 * s), FACTORS, "AP")["p_value"].iloc[
            0
        ]
        for _ in range(600)
    ]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07  # 5 % with a standard error of 0.9 %


def test_three_levels_are_each_compared_with_the_baseline():
    factors = {"queries": [100, 50, 300], "norm": ["post", "pre"]}
    frame = factorial(factors, lambda cell, seed: cell["queries"] / 1000 + (cell["norm"] == "pre") * 0.1)
    got = effects.factorial_effects(frame, factors, "AP")
    assert got["effect"].tolist() == ["queries", "queries", "norm"]  # no 2 x 2 interaction
    assert got["estimate"].tolist() == pytest.approx([-0.05, 0.2, 0.1])
    assert got["n"].tolist() == [12, 12, 18]


def test_a_missing_run_leaves_the_estimate_unbiased_and_a_missing_cell_is_named():
    frame = factorial(FACTORS, lambda cell, seed: (cell["norm"] == "pre") * 0.1 + seed)
    frame.loc[4, "AP"] = np.nan
    got = effects.factorial_effects(frame, FACTORS, "AP").set_index("effect")
    assert got.loc["norm", ["estimate", "n", "df"]].tolist() == pytest.approx([0.1, 23, 13])
    without = frame[(frame["lr"] == 1e-4) | (frame["norm"] == "post") | (frame["clip"] == 0.1)]
    with pytest.raises(ValueError, match=r"no run with a AP for \{'lr': 0.0003, 'norm': 'pre', 'clip': None\}$"):
        effects.factorial_effects(without, FACTORS, "AP")


def test_cells_that_share_no_seed_cannot_be_compared():
    frame = factorial({"norm": ["post", "pre"]}, lambda cell, seed: 0.1, num_seeds=2)
    with pytest.raises(ValueError, match="share no seeds"):
        effects.factorial_effects(frame.iloc[[0, 3]], ["norm"], "AP")


def test_one_seed_gives_estimates_without_intervals():
    got = effects.factorial_effects(factorial(FACTORS, lambda c, s: float(c["lr"]), num_seeds=1), FACTORS, "AP")
    assert got["estimate"].iloc[0] == pytest.approx(2e-4)
    assert got[["se", "low", "high", "p_value"]].isna().all(axis=None)


def test_foreign_levels_and_repeated_runs_are_refused():
    frame = factorial(FACTORS, lambda cell, seed: 0.1)
    with pytest.raises(ValueError, match="does not have"):
        effects.factorial_effects(frame, {**FACTORS, "norm": ["post"]}, "AP")
    with pytest.raises(ValueError, match="more than one run"):
        effects.factorial_effects(pd.concat([frame, frame.head(1)], ignore_index=True), FACTORS, "AP")


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 (not below its predecessor), 0.9 * 1
    assert effects.holm([0.03, 0.01, np.nan, 0.9, 0.02]) == pytest.approx([0.06, 0.04, np.nan, 0.9, 0.06], nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_and_the_bonferroni_value_and_keeps_the_order(p):
    p, adjusted = np.array(p), effects.holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, p * max(len(p), 1))).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_both_variances_come_apart():
    rng = np.random.default_rng(0)
    frame = runs_of({"a": [0.5, 0.6, 0.7], "b": [0.4, 0.4, 0.4]})
    shared = rng.normal(0, 1, 4000)
    replicates = pd.DataFrame({"a": shared + rng.normal(0.2, 0.03, 4000), "b": shared})
    got = effects.both_variances(frame, replicates, "a", "b", "AP")
    assert got.seed_variance == pytest.approx(0.1**2 / 3)
    assert got.image_variance == pytest.approx(0.03**2, rel=0.1)  # the shared part of the replicates cancels
    assert (got.images.low, got.images.high) == pytest.approx((0.2 - 1.96 * 0.03, 0.2 + 1.96 * 0.03), abs=0.004)
    assert got.images.p_value == pytest.approx(2 / 4001)
    same = effects.image_difference(replicates, "a", "a")
    assert same == effects.Interval(0, 0, 0, 4000, 0, np.inf, 1)


RECIPE = {"official, 0.1": -0.5, "official, 1.0": -0.5, "abbreviated, 0.1": 0.5, "abbreviated, 1.0": 0.5}
CLIP = {"official, 0.1": -0.5, "official, 1.0": 0.5, "abbreviated, 0.1": -0.5, "abbreviated, 1.0": 0.5}
PAIR = {"a": 1.0, "b": -1.0}


def study(sds=(7.3, 8.5, 1.7, 2.4), means=(24.7, 27.6, 50.0, 48.6), paired_se=4.0) -> pd.DataFrame:
    """A 2 x 2 of 3 seeds with these figures: every arm's deviations have a direction in the plane of their sum 0."""
    plane = np.linalg.svd(np.ones((1, 3)))[2][1:] * np.sqrt(2)  # (2, S): SD 1 in every direction

    def values(angle):
        angles = np.array([0, angle, np.pi / 2, np.pi])
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane  # (C, S)
        return np.array(means)[:, None] + np.array(sds)[:, None] * directions

    def error(angle):
        return np.std(np.array([-0.5, -0.5, 0.5, 0.5]) @ values(angle), ddof=1) / np.sqrt(3) - paired_se

    return runs_of(dict(zip(RECIPE, values(optimize.brentq(error, 0.1, np.pi - 0.1)).tolist(), strict=True)))


def test_the_rule_gives_the_figures_of_the_three_seed_study():
    recipe = effects.contrast(study(), RECIPE, "AP")
    assert (recipe.estimate, recipe.se, recipe.n) == (pytest.approx(23.15), pytest.approx(4.0), 3)
    assert recipe.high - recipe.estimate == pytest.approx(10.7, abs=0.05) and recipe.p_value == pytest.approx(
        0.0032, abs=5e-5
    )
    clip = effects.contrast(study(), CLIP, "AP")
    assert (clip.estimate, clip.df) == (pytest.approx(0.75), pytest.approx(4.45, abs=0.01))
    independent = effects.contrast(study(paired_se=2.0), RECIPE, "AP")  # then Welch's error is the larger
    assert independent.high - independent.estimate == pytest.approx(8.93, abs=0.01)


@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_two_arms_are_the_t_test_of_the_rule(num_seeds, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 3, num_seeds), rng.normal(1, 1, num_seeds)
    got = effects.contrast(runs_of({"a": a.tolist(), "b": b.tolist()}), PAIR, "AP", confidence=0.9)
    welch, paired = stats.ttest_ind(a, b, equal_var=False), stats.ttest_rel(a, b)
    error = {name: abs((a.mean() - b.mean()) / test.statistic) for name, test in (("W", welch), ("P", paired))}
    assert (got.estimate, got.n) == (pytest.approx(a.mean() - b.mean(), abs=1e-12), num_seeds)
    if num_seeds >= 6 or error["W"] >= error["P"]:
        want = paired if num_seeds >= 6 else welch
        assert got.p_value == pytest.approx(want.pvalue, abs=1e-12)
        assert (got.low, got.high) == pytest.approx(want.confidence_interval(0.9), rel=1e-9, abs=1e-9)
    else:
        assert (got.se, got.df) == pytest.approx((error["P"], welch.df))


def test_more_than_two_arms_are_the_t_test_of_the_seeds_from_six_on():
    rng = np.random.default_rng(0)
    values = {arm: rng.normal(size=7).tolist() for arm in CLIP}
    got = effects.contrast(runs_of(values), CLIP, "AP")
    differences = sum(weight * np.array(values[arm]) for arm, weight in CLIP.items())
    assert got.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=1e-12)
    assert (got.estimate, got.df) == (pytest.approx(differences.mean()), 6)


def test_unequal_numbers_of_seeds_are_welch_with_all_and_paired_on_the_common_ones():
    a, b = [0.1, 0.5, 0.3, 0.2], [0.2, 0.6, 0.5]
    welch = stats.ttest_ind(a, b, equal_var=False)  # larger here, where seeds agree
    got = effects.contrast(runs_of({"a": a, "b": b}).sample(frac=1, random_state=0), PAIR, "AP")
    assert (got.p_value, got.df, got.n) == (pytest.approx(welch.pvalue), pytest.approx(welch.df), 3)
    apart = runs_of({"a": a, "b": [np.nan] * 4 + b})  # no seed in common
    assert effects.contrast(apart, PAIR, "AP").p_value == pytest.approx(welch.pvalue)
    opposed = [0.6, 0.2, 0.5]  # high where the other is low
    got = effects.contrast(runs_of({"a": a, "b": opposed}), PAIR, "AP")
    assert got.se == pytest.approx(np.std(np.subtract(a[:3], opposed), ddof=1) / np.sqrt(3))
    assert got.df == pytest.approx(stats.ttest_ind(a, opposed, equal_var=False).df)
    rng = np.random.default_rng(0)
    many, fewer = rng.normal(size=9).tolist(), rng.normal(size=7).tolist()
    paired = effects.contrast(runs_of({"a": many, "b": fewer}), PAIR, "AP")
    assert (paired.p_value, paired.n) == (pytest.approx(stats.ttest_rel(many[:7], fewer).pvalue), 7)


def test_a_contrast_without_two_seeds_or_without_spread_has_no_interval():
    one = effects.contrast(runs_of({"a": [0.5, 0.6], "b": [0.4]}), PAIR, "AP")
    assert (one.estimate, one.n) == (pytest.approx(0.15), 1)
    none = effects.contrast(runs_of({"a": [0.5], "b": [np.nan]}), PAIR, "AP")
    same = effects.contrast(runs_of({"a": [0.1] * 3, "b": [0.3] * 3}), PAIR, "AP")  # 0.1 + 0.1 + 0.1 is not 0.3
    assert (same.se, same.n, same.estimate) == (0, 3, pytest.approx(-0.2)) and np.isnan(none.estimate)
    for got in (one, none, same):
        assert np.isnan([got.low, got.high, got.p_value]).all()


def test_a_contrast_names_what_it_cannot_compare():
    frame = runs_of({"a": [0.5, 0.6], "b": [0.4, 0.2]})
    with pytest.raises(ValueError, match=r"arms \['c', 'd'\]; the frame has \['a', 'b'\]"):
        effects.contrast(frame, {"c": 1, "a": -0.5, "d": -0.5}, "AP")
    with pytest.raises(ValueError, match=r"'b' has more than one run of seed \[1\]"):
        effects.contrast(pd.concat([frame, frame.tail(1)]), PAIR, "AP")
    with pytest.raises(ValueError, match="compare nothing"):
        effects.contrast(frame, {"a": 0.0}, "AP")
    assert effects.contrast(frame, {**PAIR, "absent": 0.0}, "AP") == effects.contrast(frame, PAIR, "AP")
