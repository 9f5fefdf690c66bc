"""Effects against closed forms, the table of half-widths, and references from scipy and least squares."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

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
    assert got.high - got.estimate == pytest.approx(effects.half_width_factor(got.n, 0.9) * got.sd, rel=1e-6)


def test_pairs_are_by_seed_number_and_incomplete_ones_drop_out():
    frame = runs_of({"a": [0.5, 0.6, np.nan, 0.8], "b": [0.4, 0.4, 0.4]}).sample(frac=1, random_state=0)
    got = effects.paired_difference(frame, "a", "b", "AP")
    assert (got.n, got.estimate) == (2, pytest.approx(0.15))


def test_one_pair_has_an_estimate_and_no_interval():
    got = effects.paired_difference(runs_of({"a": [0.5], "b": [0.4]}), "a", "b", "AP")
    assert (got.n, got.estimate) == (1, pytest.approx(0.1))
    assert np.isnan([got.low, got.high, got.sd, got.p_value]).all()


def test_no_common_seed_is_n_zero():
    assert effects.paired_difference(runs_of({"a": [0.5, np.nan], "b": [np.nan, 0.4]}), "a", "b", "AP").n == 0


def test_an_arm_against_itself_differs_by_exactly_nothing():
    frame = runs_of({"a": [0.5, 0.7, 0.1]})
    assert effects.paired_difference(frame, "a", "a", "AP") == effects.Interval(0, 0, 0, 3, 0, 1)


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
    assert same == effects.Interval(0, 0, 0, 4000, 0, 1)
