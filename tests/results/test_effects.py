"""Contrasts and effects against closed forms and references from scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from experiments.results import effects

FACTORS = {"lr": ["1e-4", "3e-4"], "norm": ["post", "pre"], "clip": ["off", "0.1"]}


def runs_of(values: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [(arm, s, v) for arm, row in values.items() for s, v in enumerate(row)], columns=["arm", "seed", "AP"]
    )


def factorial(factors: dict[str, list[str]], metric, num_seeds: int = 3) -> tuple[pd.DataFrame, dict, dict]:
    """Runs of a full factorial with metric(levels, seed), its arms and its factors."""
    cells = [dict(zip(factors, cell, strict=True)) for cell in itertools.product(*factors.values())]
    arms = {",".join(f"{name}={level}" for name, level in cell.items()): cell for cell in cells}
    rows = [(arm, seed, metric(cell, seed)) for arm, cell in arms.items() for seed in range(num_seeds)]
    return pd.DataFrame(rows, columns=["arm", "seed", "AP"]), arms, factors


def test_factorial_recovers_effects_whatever_the_seeds_add():
    def metric(cell, seed):
        lr, pre, clip = cell["lr"] == "3e-4", cell["norm"] == "pre", cell["clip"] == "0.1"
        return 0.3 + 0.02 * lr + 0.05 * pre - 0.01 * clip + 0.04 * lr * pre + 10.0**seed

    got = effects.factorial_effects(*factorial(FACTORS, metric, num_seeds=6), "AP").set_index("effect")
    # In the model with 0/1 factors, the main effect is the average over the other factor: 0.02 + 0.04 / 2.
    want = {"lr": 0.04, "norm": 0.07, "clip": -0.01, "lr x norm": 0.02, "lr x clip": 0, "norm x clip": 0}
    assert got["estimate"].to_dict() == pytest.approx(want, abs=1e-9)
    assert got.loc["clip", ["level", "baseline"]].tolist() == ["0.1", "off"]
    assert got["se"].max() < 1e-9 and set(got["n"]) == {6} and set(got["df"]) == {5}


def test_an_effect_has_the_interval_of_its_contrast():
    rng = np.random.default_rng(0)
    frame, arms, factors = factorial(FACTORS, lambda cell, seed: rng.normal())
    got = effects.factorial_effects(frame, arms, factors, "AP").set_index("effect")
    sides = {
        name: {arm: 1 if levels[name] == factors[name][1] else -1 for arm, levels in arms.items()} for name in factors
    }
    signs = sides | {"lr x clip": {arm: sides["lr"][arm] * sides["clip"][arm] for arm in arms}}
    for name, of_arm in signs.items():
        want = effects.contrast(frame, {arm: sign / 4 for arm, sign in of_arm.items()}, "AP")
        assert got.loc[name, list(vars(want))].tolist() == pytest.approx(list(vars(want).values()))


def test_the_interaction_is_the_closed_form_of_statistics():
    """Independent arms of equal spread: the pooled error of least squares and Welch's agree in expectation."""
    rng = np.random.default_rng(0)
    found = pd.concat(
        [
            effects.factorial_effects(*factorial(FACTORS, lambda c, s: rng.normal(), num_seeds=12), "AP")
            for _ in range(40)
        ]
    )
    assert (found["se"] ** 2).mean() == pytest.approx(4 / (8 * 12), rel=0.1)  # 2 sigma / sqrt(runs)


def test_false_alarms_are_five_percent_whatever_the_seeds_add():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20000, 6, 8)) + 5 * rng.normal(size=(20000, 6, 1))  # (sets, S, C)
    estimate, se, df, _ = effects.contrast_statistics(values, np.repeat([0.25, -0.25], 4))
    p = 2 * stats.t.sf(np.abs(estimate / se), df)
    assert 0.045 < np.mean(p < 0.05) < 0.055  # 5 % with a standard error of 0.15 %


def test_three_levels_are_each_compared_with_the_baseline():
    factors = {"queries": ["100", "50", "300"], "norm": ["post", "pre"]}
    got = effects.factorial_effects(
        *factorial(factors, lambda cell, seed: int(cell["queries"]) / 1000 + (cell["norm"] == "pre") * 0.1), "AP"
    )
    assert got["effect"].tolist() == ["queries", "queries", "norm"]  # no 2 x 2 interaction
    assert got["estimate"].tolist() == pytest.approx([-0.05, 0.2, 0.1])


def test_a_missing_run_leaves_the_estimate_unbiased_and_a_missing_arm_is_named():
    frame, arms, factors = factorial(FACTORS, lambda cell, seed: (cell["norm"] == "pre") * 0.1)
    frame.loc[4, "AP"] = np.nan
    got = effects.factorial_effects(frame, arms, factors, "AP").set_index("effect")
    assert got.loc["norm", ["estimate", "n"]].tolist() == pytest.approx([0.1, 2])
    without = frame[frame["arm"] != "lr=3e-4,norm=pre,clip=off"]
    with pytest.raises(ValueError, match=r"no run with a AP of lr=3e-4,norm=pre,clip=off$"):
        effects.factorial_effects(without, arms, factors, "AP")


def test_one_seed_gives_estimates_without_intervals():
    got = effects.factorial_effects(*factorial(FACTORS, lambda c, s: float(c["lr"]), num_seeds=1), "AP")
    assert got["estimate"].iloc[0] == pytest.approx(2e-4)
    assert got[["se", "low", "high", "p_value"]].isna().all(axis=None)


def test_a_repeated_run_is_refused():
    frame, arms, factors = factorial(FACTORS, lambda cell, seed: 0.1)
    with pytest.raises(ValueError, match="more than one run"):
        effects.factorial_effects(pd.concat([frame, frame.head(1)], ignore_index=True), arms, factors, "AP")


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 = 0.06 (not below its predecessor), 0.9 * 1
    assert effects.holm([0.03, 0.01, np.nan, 0.9, 0.02]) == pytest.approx([0.06, 0.04, np.nan, 0.9, 0.06], nan_ok=True)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_lies_between_the_raw_and_the_bonferroni_value_and_keeps_the_order(p):
    p, adjusted = np.array(p), effects.holm(p)
    assert (adjusted >= p).all() and (adjusted <= np.minimum(1, p * max(len(p), 1))).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_a_single_arm_has_the_t_interval_of_its_mean():
    values = [0.3, 0.5, 0.1, 0.2]
    got = effects.contrast(runs_of({"a": values}), {"a": 1.0}, "AP")
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (got.low, got.high, got.n) == (pytest.approx(want.low), pytest.approx(want.high), 4)


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
