"""Contrasts of an ablation with their intervals over seeds: pure functions on a frame with one row a run.

The frame has `arm`, `seed`, and the metric in its own units (AP: 0..1). One contrast has one interval, whether it is a
pair of arms, a main effect or an interaction. Intervals over validation images are those of `image_intervals`.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from experiments.schema.contrasts import factor_pairs, pair_weights

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval in the metric's units; NaN where n is too small to say."""

    estimate: float
    low: float
    high: float
    n: int  # seeds or images
    se: float  # standard error of the estimate
    df: float  # of the t quantile; infinite for percentile intervals, which need none
    p_value: float  # two-sided, of no difference


UNKNOWN = Interval(np.nan, np.nan, np.nan, 0, np.nan, np.nan, np.nan)
PAIRED_FROM = 6  # seeds: from here on the paired error alone, whose t interval is exact under any covariance of arms
ROUNDING = 1e-12  # spread below this share of the values is that of their last bits


def contrast(frame: pd.DataFrame, weights: Mapping[str, float], metric: str, confidence: float = 0.95) -> Interval:
    """Weighted sum over arms of their mean over seeds, with its interval over seeds (see `contrast_statistics`).

    frame:    arm, seed, metric: one row a run; without a value where it has not finished
    weights:  arm -> weight, such as +1/k for k arms and -1/k for the k arms they are compared with

    The interval is NaN below two seeds, and where all seeds gave the same (se 0), which says nothing of the next one.
    ValueError for arms that the frame does not have, and for a seed that stands twice in an arm.
    """
    used = {arm: weight for arm, weight in weights.items() if weight}
    if missing := sorted(set(used) - set(frame["arm"])):
        raise ValueError(f"no runs of arms {missing}; the frame has {sorted(frame['arm'].unique())}")
    if not used:
        raise ValueError(f"weights {dict(weights)} compare nothing")
    values = pd.concat([_by_seed(frame, arm, metric) for arm in used], axis=1).to_numpy(float)  # (S, C)
    statistics = contrast_statistics(values, np.array(list(used.values()), dtype=float))
    estimate, se, df, n = (float(one) for one in statistics)
    if se <= ROUNDING * np.abs(values).max(initial=0, where=~np.isnan(values)):
        return Interval(estimate, np.nan, np.nan, int(n), 0.0, df, np.nan)
    low, high, p_value = t_interval(estimate, se, df, confidence)
    return Interval(estimate, low, high, int(n), se, df, p_value)


def contrast_statistics(values: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """Estimate, standard error, degrees of freedom and number of seeds [...] of a contrast.

    values:   [..., S, C] a run of seed s in arm c; NaN where there is none
    weights:  [C]

    From PAIRED_FROM seeds in all arms on, the error is that of the seeds' differences. Below, these have too few
    degrees of freedom and Welch's error, which takes arms as independent, has enough; but it is too small where arms
    on one side share the seed's luck, so the larger of the two counts, with Welch's df. Welch's uses all seeds of an
    arm, and its n is that of the arm with the fewest.
    """
    mean, variance, runs = _mean_and_variance(values.swapaxes(-1, -2))  # (..., C)
    paired_mean, paired_variance, pairs = _mean_and_variance(values @ weights)  # (...)
    shares = weights**2 * variance
    with np.errstate(invalid="ignore", divide="ignore"):
        welch_df = shares.sum(axis=-1) ** 2 / (shares**2 / (runs - 1)).sum(axis=-1)
    paired = pairs >= PAIRED_FROM
    estimate = np.where(paired, paired_mean, mean @ weights)
    se = np.sqrt(np.where(paired, paired_variance, np.fmax(shares.sum(axis=-1), paired_variance)))
    return estimate, se, np.where(paired, pairs - 1, welch_df), np.where(paired, pairs, runs.min(axis=-1))


def factorial_effects(
    frame: pd.DataFrame, arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]], metric: str
) -> pd.DataFrame:
    """Main effects and two-way interactions of a full factorial, each by `contrast`.

    arms:     arm -> factor -> level
    factors:  factor -> levels, the baseline first

    One row an effect, in units of the metric, averaged over the other factors' levels:
    main effect           level minus baseline
    interaction (2 x 2)   half of (effect of one factor at the other's second level minus at its baseline); none for a
                          factor of more than two levels
    Columns: effect, kind, level, baseline, estimate, se, low, high, p_value, n (seeds), df. ValueError names arms
    without any run.
    """
    done = set(frame.dropna(subset=[metric])["arm"])
    if missing := [arm for arm in arms if arm not in done]:
        raise ValueError(f"not a full factorial: no run with a {metric} of {'; '.join(missing)}")
    rows = [named | vars(contrast(frame, weights, metric)) for named, weights in _effect_weights(arms, factors)]
    columns = ["effect", "kind", "level", "baseline", "estimate", "se", "low", "high", "p_value", "n", "df"]
    return pd.DataFrame(rows, columns=columns)


def _effect_weights(
    arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]]
) -> Iterator[tuple[dict[str, str | None], dict[str, float]]]:
    """Name and weights of every effect, main effects first."""
    named: dict[str, str | None]
    for factor, (baseline, *others) in factors.items():
        for level in others:
            named = {"effect": factor, "kind": "main", "level": level, "baseline": baseline}
            yield named, pair_weights(factor_pairs(arms, factor, level, baseline))
    two_level = [factor for factor, levels in factors.items() if len(levels) == 2]
    for one, other in itertools.combinations(two_level, 2):
        signs = {
            arm: 1 if (levels[one] == factors[one][1]) == (levels[other] == factors[other][1]) else -1
            for arm, levels in arms.items()
        }
        named = {"effect": f"{one} x {other}", "kind": "interaction", "level": None, "baseline": None}
        yield named, {arm: 2 * sign / len(arms) for arm, sign in signs.items()}


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values in the order given; NaN (no test was possible) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def t_interval(estimate: float, se: float, df: float, confidence: float) -> tuple[float, float, float]:
    """Low, high and two-sided p value; NaN without degrees of freedom. A zero SE leaves p 1 at zero, else 0."""
    if not df > 0:
        return np.nan, np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, df) * se
    p_value = 2 * stats.t.sf(abs(estimate) / se, df) if se > 0 else float(estimate == 0)
    return float(estimate - half), float(estimate + half), float(p_value)


def _by_seed(frame: pd.DataFrame, arm: str, metric: str) -> pd.Series:
    """The metric of one arm by seed, runs without a value dropped."""
    runs = frame[frame["arm"] == arm]
    if runs.empty:
        raise ValueError(f"no runs of arm {arm!r}; the frame has {sorted(frame['arm'].unique())}")
    values = runs.dropna(subset=[metric]).set_index("seed")[metric]
    if not values.index.is_unique:
        twice = sorted(values.index[values.index.duplicated()].unique())
        raise ValueError(f"arm {arm!r} has more than one run of seed {twice}: keep one, seeds are paired by number")
    return values


def _mean_and_variance(values: Array) -> tuple[Array, Array, Array]:
    """Mean over seeds, variance of the mean, and number of seeds [...] of values [..., S], NaN left out."""
    n = (~np.isnan(values)).sum(axis=-1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):  # no seed has no mean, and one no variance
        mean = np.nansum(values, axis=-1) / n
        squares = np.nansum((values - mean[..., None]) ** 2, axis=-1)
        return mean, squares / (n - 1) / n, n
