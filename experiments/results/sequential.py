"""Decisions while seeds are added: levels of repeated looks, e-values, and how many seeds an answer takes.

A look is made after every complete block of arms. With a fixed cap it uses `levels`; without one, as for seeds that
were added by hand after a result was seen, `e_value`, which is valid at any time. Throughout, v = sum_c w_c^2 / S is
the variance of a contrast of S seeds in units of the variance of a run (`variance_factor`).
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from experiments.results.effects import Interval, holm, t_interval

Array = npt.NDArray[np.float64]

LEVEL = 0.05  # share of false claims over all looks together
TAU = 2.5  # SD of the effects, in SDs of a run, that the e-value is most sensitive to
HOLM_SAFETY = 1.2
MIN_PRIOR_DF = 2.0  # of a prior SD: below, its t quantile is over 4.3 and says nothing
MAX_PRIOR_DF = 8.0  # earlier runs are of other code and machines, so they never count as more
GRID = 1000  # points on which the chance of having gone on is tabulated
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)


def levels(cap: int) -> dict[int, float]:
    """Level c_n of the look after n = 2 .. cap seeds: stop where the contrast's p value is below it.

    Alpha spending LEVEL * (n / cap)^2 is exhausted exactly by the one-sample t statistic of n seeds, df n - 1, which
    is the least favourable: Welch's df and any ratio of variances lie between it and the normal. ValueError below 2.
    """
    if cap < 2:
        raise ValueError(f"a cap of {cap} seeds leaves no look: an interval over seeds takes 2")
    return dict(enumerate(_levels(cap), 2))


def repeated_p(p_value: float, level: float) -> float:
    """P value at the look with this level that may be used whatever the primary contrast made of the looks."""
    return min(LEVEL * p_value / level, 1.0)


def repeated_holm(p_values: Sequence[float], level: float) -> Array:
    """Holm's adjusted p values [m] of secondary contrasts at the look with this level.

    At its first step the looks spend more than 1 / m of the level (1.04 to 1.2 times, for 2 to 8 contrasts), which
    HOLM_SAFETY makes up for.
    """
    safety = HOLM_SAFETY if len(p_values) > 1 else 1.0
    return holm([safety * repeated_p(p_value, level) for p_value in p_values])


def repeated_interval(interval: Interval, level: float) -> tuple[float, float]:
    """Interval at the look with this level; over all looks together it misses the truth in at most LEVEL."""
    half = _t_quantile(1 - level / 2, interval.df) * interval.se
    return interval.estimate - half, interval.estimate + half


def e_value(t: float, df: float, v: float, tau: float = TAU) -> float:
    """Evidence against no difference, of mean 1 under it: reject at any time at which it is 1 / LEVEL or more.

    Right-Haar mixture of t over effects ~ Normal(0, (tau SD)^2), exact for normal runs of equal spread with pooled
    df. NaN without a t statistic.
    """
    r = v / (v + tau**2)
    # (1 + r t^2 / df) / (1 + t^2 / df), in a form that is r at an infinite t
    ratio = r + (1 - r) / (1 + t**2 / df)
    return math.exp(min((math.log(r) - (df + 1) * math.log(ratio)) / 2, 700.0))  # in this order NaN stays NaN


def anytime_interval(estimate: float, se: float, df: float, v: float, tau: float = TAU) -> tuple[float, float]:
    """All differences whose e-value is below 1 / LEVEL; infinite where the df are too few for any claim."""
    r = v / (v + tau**2)
    q = (1 / LEVEL / math.sqrt(r)) ** (2 / (df + 1))
    half = se * math.sqrt(df * (q - 1) / (1 - q * r)) if q * r < 1 else math.inf
    return estimate - half, estimate + half


def half_width(interval: Interval, seeds: int) -> float:
    """Half-width that the 95 % interval would have with another number of seeds, at the same spread between runs."""
    df = (seeds - 1) * interval.df / (interval.n - 1)
    return _t_quantile(1 - LEVEL / 2, df) * interval.se * math.sqrt(interval.n / seeds)


def seeds_to_settle(interval: Interval, difference: float) -> int | None:
    """Smallest number of seeds whose interval would be no wider than a difference on either side.

    None where nothing can be said: one seed, no spread between the seeds, or a difference of 0.
    """
    if interval.n < 2 or not interval.se > 0 or difference == 0:
        return None
    few, enough = 1, 2  # one seed has no interval
    while half_width(interval, enough) > abs(difference):
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if half_width(interval, middle) > abs(difference) else (few, middle)
    return enough


def futile(interval: Interval, margin: float, cap: int) -> bool:
    """Whether not even `cap` seeds would settle the difference that is seen, or one of the margin.

    Not binding: to go on regardless leaves the levels valid. False with one seed, or no spread between the seeds.
    """
    if interval.n < 2 or not interval.se > 0:
        return False
    return half_width(interval, cap) > max(abs(interval.estimate), margin)


def variance_factor(weights: Iterable[float], seeds: int) -> float:
    """v = sum of squared weights / seeds."""
    return sum(weight**2 for weight in weights) / seeds


def tipping_sd(estimate: float, v: float) -> float:
    """SD between trainings over which seeds alone would make a difference of this size (two-sided 5 %)."""
    return abs(estimate) / (float(special.ndtri(1 - LEVEL / 2)) * math.sqrt(v))


@dataclass(frozen=True)
class PriorSd:
    """SD between trainings of one arm, as earlier runs of the same data, model and horizon suggest it."""

    sd: float  # s0, in the metric's units
    arm_df: float  # d0: how much arms have it in common; infinite where they differ no more than by chance
    df: float  # of a t quantile with it: arm_df and the df that it was estimated from, both

    def interval(self, estimate: float, weights: Collection[float], seeds: int) -> Interval:
        """Provisional 95 % interval of a contrast with these weights; infinite below MIN_PRIOR_DF."""
        se = self.sd * math.sqrt(variance_factor(weights, seeds))
        if self.df < MIN_PRIOR_DF:
            return Interval(estimate, -math.inf, math.inf, seeds, se, self.df, 1.0)
        low, high, p_value = t_interval(estimate, se, self.df, 1 - LEVEL)
        return Interval(estimate, low, high, seeds, se, self.df, p_value)


def prior_sd(sds: Sequence[float], dfs: Sequence[float]) -> PriorSd:
    """Fit a scaled F to the variances of G arms by moments of their logarithms (limma's fitFDist).

    sds, dfs:  [G] SD of the arm's seeds, and their number minus 1. ValueError for none, or one that is not positive.
    """
    s, d = np.asarray(sds, dtype=float), np.asarray(dfs, dtype=float)
    if not len(s) or not (s > 0).all() or not (d > 0).all():
        raise ValueError(f"SDs {list(sds)} with {list(dfs)} df: at least one is needed, all above 0")
    log_variance = 2 * np.log(s) - special.digamma(d / 2) + np.log(d / 2)  # unbiased for log sigma^2
    excess = float(log_variance.var(ddof=1) - special.polygamma(1, d / 2).mean()) if len(s) > 1 else 0.0
    centre = float(log_variance.mean())
    arm_df = math.inf
    if excess > 0:
        arm_df = 2 * _inverse_trigamma(excess)
        centre += float(special.digamma(arm_df / 2) - np.log(arm_df / 2))
    return PriorSd(math.exp(centre / 2), arm_df, 1 / (1 / min(arm_df, MAX_PRIOR_DF) + 1 / float(d.sum())))


def _inverse_trigamma(y: float) -> float:
    """Root x of trigamma(x) = y; 1 / x < trigamma(x) < 1 / x + 1 / x^2 brackets it."""
    return float(optimize.brentq(lambda x: special.polygamma(1, x) - y, 1 / y, (1 + math.sqrt(1 + 4 * y)) / (2 * y)))


def _t_quantile(probability: float, df: float) -> float:
    return float(special.stdtrit(df, probability))


@functools.cache
def _levels(cap: int) -> tuple[float, ...]:
    """Levels of the looks 2 .. cap.

    For x_1 .. x_n ~ Normal(0, 1), b_n = sum x / |x| is t_n in another scale and holds all that the scale-free past
    says of the future. Given b_n, the last coordinate of x / |x| is distributed as on a sphere, which gives b_{n-1}:
    so "no look before n has stopped" has a probability that depends on b_n alone and follows from that at n - 1.
    Under the null hypothesis p_n is uniform; the level is where the integral of that probability over p_n < c_n has
    spent what the look may spend.
    """
    found: list[float] = []
    went_on: Callable[[Array], Array] = np.ones_like  # probability [...] of no stop before look n, given b_n
    for n in range(2, cap + 1):
        share = LEVEL * (n / cap) ** 2  # spent up to this look; the level cannot exceed it
        spend = share - LEVEL * ((n - 1) / cap) ** 2 if found else share
        step = share / GRID
        reached = step * np.cumsum(went_on(_direction(step * np.linspace(0.5, GRID - 0.5, GRID), n)))
        found.append(float(np.interp(spend, np.append(0, reached), step * np.arange(GRID + 1))))
        bound = _direction(found[-1], n)
        # Denser towards the bound, where it falls steeply.
        grid = bound * np.sin(np.linspace(0, np.pi / 2, GRID))
        went_on = functools.partial(_went_on, grid=grid, before=went_on(grid), n=n + 1)
    return tuple(found)


def _direction(p_value: Array | float, n: int) -> Array:
    """b_n = sum x / |x| of n values whose one-sample t test has this two-sided p value."""
    t = special.stdtrit(n - 1, 1 - p_value / 2)
    return np.asarray(t * np.sqrt(n / (n - 1 + t**2)))


def _went_on(b: Array, grid: Array, before: Array, n: int) -> Array:
    """Probability [M] that no look before the n-th has stopped, given b_n.

    b:       [M] non-negative
    grid:    [G] from 0 to the bound of |b_{n-1}|, beyond which look n - 1 stops
    before:  [G] the probability at look n - 1, given b_{n-1} = grid
    """
    bound = grid[-1]
    # The last coordinate is centre + radius * sin(angle).
    centre, radius = b / n, np.sqrt((1 - b**2 / n).clip(0) * (n - 1) / n)
    root = bound * np.sqrt((1 + bound**2 - b**2).clip(0))
    # |b_{n-1}| = |b - last| / sqrt(1 - last^2) is below the bound between these two values of the last coordinate.
    low, high = (
        np.arcsin(((b + side * root) / (1 + bound**2) - centre).clip(-radius, radius) / radius.clip(1e-300))
        for side in (-1, 1)
    )
    angle = low[:, None] + (high - low)[:, None] * (NODES + 1) / 2  # (M, nodes)
    last = centre[:, None] + radius[:, None] * np.sin(angle)
    previous = np.abs(b[:, None] - last) / np.sqrt((1 - last**2).clip(1e-300))
    density = np.cos(angle) ** (n - 3) / special.beta(0.5, (n - 2) / 2)
    return np.asarray((np.interp(previous, grid, before) * density) @ NODE_WEIGHTS * (high - low) / 2)
