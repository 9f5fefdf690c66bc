"""Effects of an ablation with their uncertainty: pure functions on a frame with one row a run.

The frame has a column for each factor, `arm`, `seed`, and the metric in its own units (AP: 0..1). Two sources of
variance stay apart: seeds (t intervals, `paired_difference`, `factorial_effects`) and validation images
(`image_difference`, on the replicates of `bootstrap.bootstrap_ap`); `both_variances` shows them side by side.
"""

import itertools
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval in the metric's units; NaN where n is too small to say."""

    estimate: float
    low: float
    high: float
    n: int  # seeds, images, or bootstrap replicates
    se: float  # standard error of the estimate
    df: float  # of the t quantile; infinite for percentile intervals, which need none
    p_value: float  # two-sided, of no difference


UNKNOWN = Interval(np.nan, np.nan, np.nan, 0, np.nan, np.nan, np.nan)
PAIRED_FROM = 6  # seeds: from here on the paired error alone, whose t interval is exact under any covariance of arms
ROUNDING = 1e-12  # spread below this share of the values is that of their last bits


@dataclass(frozen=True)
class TwoVariances:
    """One contrast seen from its two sources of chance; neither interval contains the other source."""

    seeds: Interval  # over retraining, on these images
    images: Interval  # over validation images, with these trained models

    @property
    def seed_variance(self) -> float:
        """Variance of the mean difference over seeds."""
        return self.seeds.se**2

    @property
    def image_variance(self) -> float:
        """Variance of the difference over images: that of the bootstrap replicates."""
        return self.images.se**2


def half_width_factor(n: int, confidence: float = 0.95) -> float:
    """Half-width of a t interval of the mean of n differences, in units of their SD; NaN below two differences."""
    return float(stats.t.ppf((1 + confidence) / 2, n - 1) / np.sqrt(n)) if n > 1 else np.nan


def paired_difference(frame: pd.DataFrame, arm: str, baseline: str, metric: str, confidence: float = 0.95) -> Interval:
    """Mean over seeds of arm minus baseline with its t interval.

    Only seeds with a metric in both arms count, and n is their number. ValueError for an arm that the frame does not
    have, or two runs of one arm and seed.
    """
    differences = (_by_seed(frame, arm, metric) - _by_seed(frame, baseline, metric)).dropna()
    n = len(differences)
    if n == 0:
        return UNKNOWN
    estimate, se = differences.mean(), differences.std() / np.sqrt(n)
    low, high, p_value = t_interval(estimate, se, n - 1, confidence)
    return Interval(float(estimate), low, high, n, float(se), n - 1, p_value)


def image_difference(replicates: pd.DataFrame, arm: str, baseline: str, confidence: float = 0.95) -> Interval:
    """Mean and percentile interval of arm minus baseline over bootstrap replicates (rows, one column an arm).

    n is the number of replicates with a value in both arms, the standard error their standard deviation, and p twice
    the smaller tail, which cannot fall below 2 / (n + 1). Identical arms give 0, 0, 0, p 1.
    On a few hundred images 95 % intervals cover 91 to 95 % (benchmarks.bootstrap --calibration).
    """
    differences = (replicates[arm] - replicates[baseline]).dropna().to_numpy()
    if len(differences) == 0:
        return UNKNOWN
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = 1 + min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    se = differences.std(ddof=1) if len(differences) > 1 else np.nan
    p_value = min(1.0, 2 * tail / (len(differences) + 1))
    return Interval(float(differences.mean()), float(low), float(high), len(differences), float(se), np.inf, p_value)


def both_variances(
    frame: pd.DataFrame, replicates: pd.DataFrame, arm: str, baseline: str, metric: str, confidence: float = 0.95
) -> TwoVariances:
    """The contrast's interval over seeds and its interval over images, apart.

    `replicates` come from bootstrap_ap with resample_seeds=False (or one seed an arm): otherwise the seeds' variance
    is in both.
    """
    return TwoVariances(
        seeds=paired_difference(frame, arm, baseline, metric, confidence),
        images=image_difference(replicates, arm, baseline, confidence),
    )


def factorial_effects(
    frame: pd.DataFrame,
    factors: Sequence[str] | Mapping[str, Sequence[Hashable]],
    metric: str,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Main effects and two-way interactions of a full factorial, seeds as blocks.

    `factors` maps each factor to its levels, the baseline first; of a mere list of names, levels count in their order
    of appearance. The model is metric = cell + seed + noise, so an additive effect of the seed is removed, and noise
    is what cells and seeds do not explain: runs - cells - seeds + 1 degrees of freedom. Single runs may be missing;
    ValueError names cells without any, runs outside `factors`' levels, and a seed that ran twice in a cell.

    One row an effect, in units of the metric, averaged over the other factors' levels:
    main effect           level minus baseline
    interaction (2 x 2)   half of (effect of one factor at the other's second level minus at its baseline)
    so that in a 2^k design every standard error is 2 * sigma / sqrt(runs). n is the number of runs that an effect
    compares. Columns: effect, kind, level, baseline, estimate, se, low, high, p_value, n, df.
    """
    runs = frame.dropna(subset=[metric])
    settings = frame[list(factors)].astype(object).where(frame[list(factors)].notna(), None)  # "off" may be None
    levels: Mapping[str, Sequence[Hashable]] = (
        factors if isinstance(factors, Mapping) else {name: list(settings[name].unique()) for name in factors}
    )
    cells = list(itertools.product(*levels.values()))
    of_run = _cell_of_each_run(settings.loc[runs.index], runs["seed"], cells)
    missing = [dict(zip(levels, cells[c], strict=True)) for c in sorted(set(range(len(cells))) - set(of_run))]
    if missing:
        raise ValueError(f"not a full factorial: no run with a {metric} for {'; '.join(map(str, missing))}")
    means, covariance, df = _cell_means(of_run, runs["seed"].to_numpy(), runs[metric].to_numpy(float), len(cells))
    rows = []
    for named, contrast in _contrasts(levels, cells):
        estimate, se = contrast @ means, np.sqrt(contrast @ covariance @ contrast)
        low, high, p_value = t_interval(estimate, se, df, confidence)
        n = int(np.isin(of_run, contrast.nonzero()[0]).sum())
        rows.append({**named, "estimate": estimate, "se": se, "low": low, "high": high, "p_value": p_value, "n": n})
    return pd.DataFrame(rows).assign(df=df)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values in the order given; NaN (no test was possible) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


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


def t_interval(estimate: float, se: float, df: float, confidence: float) -> tuple[float, float, float]:
    """Low, high and two-sided p value; NaN without degrees of freedom. A zero SE leaves p 1 at zero, else 0."""
    if not df > 0:
        return np.nan, np.nan, np.nan
    half = stats.t.ppf((1 + confidence) / 2, df) * se
    p_value = 2 * stats.t.sf(abs(estimate) / se, df) if se > 0 else float(estimate == 0)
    return float(estimate - half), float(estimate + half), float(p_value)


def _cell_of_each_run(settings: pd.DataFrame, seeds: pd.Series, cells: list[tuple[Hashable, ...]]) -> np.ndarray:
    """Index [R] of each run's cell."""
    index = {cell: position for position, cell in enumerate(cells)}
    found = list(settings.itertuples(index=False, name=None))
    if unknown := set(found) - set(index):
        raise ValueError(f"runs with levels that the design does not have: {sorted(unknown, key=str)}")
    if twice := [run for run, times in Counter(zip(found, seeds, strict=True)).items() if times > 1]:
        raise ValueError(f"more than one run of (levels, seed) {twice}: keep one, a repeated seed is no new evidence")
    return np.array([index[cell] for cell in found], dtype=int)


def _cell_means(
    cell: np.ndarray, seed: np.ndarray, values: np.ndarray, num_cells: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Least squares of values [R] on cell and seed: cell means [C], their covariance [C, C], residual df.

    Seeds are coded to sum to zero, so differences of the means are free of them. ValueError when runs are missing in
    a pattern that confounds cells with seeds. Without residual degrees of freedom the covariance is NaN.
    """
    block, num_seeds = np.unique(seed, return_inverse=True)[1], len(np.unique(seed))
    seeds = np.eye(num_seeds)[:, 1:] - np.eye(num_seeds)[:, :1]  # (S, S - 1)
    design = np.hstack([np.eye(num_cells)[cell], seeds[block]])  # (R, C + S - 1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError("too many runs are missing: the remaining cells share no seeds, so they cannot be compared")
    solution = np.linalg.lstsq(design, values)[0]
    df = len(values) - design.shape[1]
    variance = np.sum((values - design @ solution) ** 2) / df if df else np.nan
    covariance = variance * np.linalg.inv(design.T @ design)
    return solution[:num_cells], covariance[:num_cells, :num_cells], df


def _contrasts(
    levels: Mapping[str, Sequence[Hashable]], cells: list[tuple[Hashable, ...]]
) -> Iterator[tuple[dict[str, Hashable], np.ndarray]]:
    """The name and the weights [C] of the cell means, main effects first."""
    signs = {}
    for position, (factor, (baseline, *others)) in enumerate(levels.items()):
        for level in others:
            sign = np.array([(cell[position] == level) * 1.0 - (cell[position] == baseline) for cell in cells])
            signs[factor] = sign
            named = {"effect": factor, "kind": "main", "level": level, "baseline": baseline}
            yield named, sign / (sign > 0).sum()
    two_level = [factor for factor in signs if len(levels[factor]) == 2]
    for one, other in itertools.combinations(two_level, 2):
        sign = signs[one] * signs[other]
        named = {"effect": f"{one} x {other}", "kind": "interaction", "level": None, "baseline": None}
        yield named, sign / (sign > 0).sum()


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


def _mean_and_variance(values: Array) -> tuple[Array, Array, Array]:
    """Mean over seeds, variance of the mean, and number of seeds [...] of values [..., S], NaN left out."""
    n = (~np.isnan(values)).sum(axis=-1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):  # no seed has no mean, and one no variance
        mean = np.nansum(values, axis=-1) / n
        squares = np.nansum((values - mean[..., None]) ** 2, axis=-1)
        return mean, squares / (n - 1) / n, n
