"""Levels, e-values and numbers of seeds against published figures, quadrature and simulated paths."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.results import calibrate, sequential
from experiments.results.effects import Interval

# From 800,000 simulated paths of the one-sample t statistic.
SIMULATED = {
    4: (0.0125, 0.0175, 0.0287),
    6: (0.0056, 0.0075, 0.0120, 0.0182, 0.0267),
    8: (0.0031, 0.0042, 0.0065, 0.0097, 0.0141, 0.0190, 0.0255),
    12: (0.0014, 0.0018, 0.0028, 0.0041, 0.0058, 0.0078, 0.0103, 0.0130, 0.0162, 0.0202, 0.0242),
}


def interval(estimate: float, se: float, n: int, df: float) -> Interval:
    half = stats.t.ppf(0.975, df) * se
    return Interval(estimate, estimate - half, estimate + half, n, se, df, 2 * stats.t.sf(abs(estimate) / se, df))


@pytest.mark.parametrize("cap", SIMULATED)
def test_levels_are_those_of_simulated_paths(cap):
    levels = sequential.levels(cap)
    assert list(levels) == list(range(2, cap + 1))
    assert list(levels.values()) == pytest.approx(SIMULATED[cap], rel=0.03, abs=5e-5)  # the figures' own digits


def test_levels_of_one_look_are_the_plain_test_and_of_none_an_error():
    assert sequential.levels(2) == {2: pytest.approx(0.05, abs=1e-12)}
    levels = sequential.levels(3)  # the first look spends 0.05 (2/3)^2, and the second the rest
    assert levels[2] == pytest.approx(0.05 * 4 / 9) and 0.05 * 5 / 9 < levels[3] < 0.05
    with pytest.raises(ValueError, match="cap of 1 "):
        sequential.levels(1)


def test_the_caller_may_change_its_levels():
    sequential.levels(4).clear()
    assert len(sequential.levels(4)) == 3


def test_looks_keep_their_level_on_paths():
    """400,000 paths a cap: levels found again within 10 %, false claims over all looks 0.050 within 0.002."""
    assert all(figure.holds for figure in calibrate.looks())


def test_repeated_p_and_interval_agree_at_every_look():
    found = interval(2.0, 0.5, 4, 3)
    for level in sequential.levels(8).values():
        low, high = sequential.repeated_interval(found, level)
        assert (low + high) / 2 == pytest.approx(2) and (sequential.repeated_p(found.p_value, level) < 0.05) == (
            low > 0
        )
    assert sequential.repeated_interval(found, 0.05) == pytest.approx((found.low, found.high))
    assert sequential.repeated_p(0.9, 0.01) == 1 and math.isnan(sequential.repeated_p(math.nan, 0.01))


def test_secondary_contrasts_take_holm_of_the_repeated_p():
    assert sequential.repeated_holm([0.004], 0.01) == pytest.approx([0.02])
    got = sequential.repeated_holm([0.004, math.nan, 0.001], 0.01)  # repeated: 0.02 and 0.005, times 1.2
    assert got == pytest.approx([0.024, math.nan, 2 * 0.006], nan_ok=True)


def test_an_e_value_has_mean_one_under_no_difference():
    for df in range(1, 31):
        for v in (0.05, 0.25, 1.0):
            assert calibrate.e_value_integral(df, v) == pytest.approx(1, abs=1e-6)


def test_an_e_value_is_the_mixture_of_noncentral_t_densities():
    df, v, tau, t = 6, 0.25, 2.5, 3.0
    rng = np.random.default_rng(0)
    effects = rng.normal(0, tau, 400_000) / math.sqrt(v)  # in standard errors
    mixture = stats.nct.pdf(t, df, effects[np.abs(effects) < 30]).sum() / len(effects)
    assert sequential.e_value(t, df, v, tau) == pytest.approx(mixture / stats.t.pdf(t, df), rel=0.02)


@given(st.floats(0, 50), st.floats(1, 60), st.floats(0.01, 2))
def test_the_anytime_interval_holds_what_the_e_value_does_not_reject(t, df, v):
    low, high = sequential.anytime_interval(t, 1.0, df, v)
    assert (low + high) / 2 == pytest.approx(t) or (low, high) == (-math.inf, math.inf)
    evidence = sequential.e_value(t, df, v)
    if abs(evidence - 20) > 1e-6:
        assert (evidence >= 20) == (low > 0)
    assert sequential.e_value(-t, df, v) == evidence


def test_the_anytime_interval_of_too_few_seeds_is_infinite():
    assert sequential.anytime_interval(5.0, 0.1, 1.0, 0.5) == (-math.inf, math.inf)
    assert sequential.e_value(math.inf, 1.0, 0.5) < 20  # not even then
    assert math.isfinite(sequential.e_value(math.inf, 1000.0, 0.1)) and math.isnan(sequential.e_value(math.nan, 3, 0.5))


def test_the_study_says_how_many_seeds_would_settle_a_difference():
    clip = interval(0.75, 3.34, 3, 4.45)
    assert [sequential.seeds_to_settle(clip, difference) for difference in (1, -2, 5)] == [130, 34, 7]


@given(st.integers(2, 12), st.floats(0.01, 10), st.floats(0.05, 3))
def test_seeds_to_settle_are_the_fewest(n, se, difference):
    found = interval(0.0, se, n, n - 1)
    seeds = sequential.seeds_to_settle(found, difference)
    assert sequential.half_width(found, seeds) <= difference
    assert seeds == 2 or sequential.half_width(found, seeds - 1) > difference
    assert sequential.half_width(found, n) == pytest.approx(found.high)


def test_nothing_can_be_foretold_without_spread():
    one, same = Interval(1, math.nan, math.nan, 1, math.nan, math.nan, math.nan), Interval(1, 1, 1, 3, 0, 2, math.nan)
    assert [sequential.seeds_to_settle(found, 1.0) for found in (one, same)] == [None, None]
    assert sequential.seeds_to_settle(interval(0.0, 1.0, 3, 2), 0.0) is None
    assert not sequential.futile(one, 0.5, 8) and not sequential.futile(same, 0.5, 8)


def test_futility_is_when_the_cap_settles_neither_the_difference_nor_the_margin():
    found = interval(0.75, 3.34, 3, 4.45)  # 34 seeds for a difference of 2, and 130 for 1
    assert sequential.futile(found, 2.0, 33) and not sequential.futile(found, 2.0, 34)
    assert not sequential.futile(interval(-5.0, 3.34, 3, 4.45), 1.0, 7)
    assert sequential.futile(interval(-5.0, 3.34, 3, 4.45), 1.0, 6)


def test_one_seed_names_the_spread_that_would_explain_it():
    v = sequential.variance_factor((0.5, 0.5, -0.5, -0.5), 1)
    assert sequential.tipping_sd(30.7, v) == pytest.approx(15.7, abs=0.05)
    assert sequential.tipping_sd(-1.2, v) == pytest.approx(0.6, abs=0.05)
    assert sequential.variance_factor((1, -1), 4) == 0.5


def test_the_prior_sd_of_the_three_seed_study():
    prior = sequential.prior_sd([7.3, 8.5, 1.7, 2.4], [2, 2, 2, 2])
    assert (prior.sd, prior.arm_df, prior.df) == pytest.approx((4.4, 3.0, 2.2), abs=0.05)
    found = prior.interval(30.7, (0.5, 0.5, -0.5, -0.5), seeds=1)
    assert (found.low, found.high) == pytest.approx((13, 48), abs=0.5) and found.p_value < 0.05


def test_the_prior_recovers_the_distribution_that_sds_were_drawn_from():
    rng = np.random.default_rng(0)
    df, arm_df, arms = 4, 6.0, 20_000
    variances = 9 * arm_df / rng.chisquare(arm_df, arms) * rng.chisquare(df, arms) / df
    prior = sequential.prior_sd(np.sqrt(variances).tolist(), [df] * arms)
    assert (prior.sd, prior.arm_df) == (pytest.approx(3, rel=0.02), pytest.approx(arm_df, rel=0.1))


def test_arms_that_scatter_alike_have_one_sd():
    prior = sequential.prior_sd([2.0, 2.0, 2.0], [4, 4, 4])
    assert prior.arm_df == math.inf and prior.df == pytest.approx(1 / (1 / 8 + 1 / 12))
    few = sequential.prior_sd([2.0], [1])
    found = few.interval(100.0, (1, -1), seeds=1)
    assert few.df < 2 and (found.low, found.high, found.p_value) == (-math.inf, math.inf, 1.0)
    for sds, dfs in (([], []), ([0.0], [2]), ([1.0], [0])):
        with pytest.raises(ValueError, match="at least one is needed, all above 0"):
            sequential.prior_sd(sds, dfs)
