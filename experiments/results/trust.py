"""How far the ranks of short runs carry: a sweep's configurations, run again for longer.

Without at least six of them the ranking of a sweep is for screening only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr
from scipy.stats import kendalltau

from experiments.results.figures.curves import styled
from experiments.results.reading.sweep_trials import SweepResults, attributes_of, trial_frame
from experiments.schema.metrics import in_points

MIN_CONFIGURATIONS = 6
SCREENING = "screening only"
MAXIMIZE = "maximize"
MAX_PENALTY = 1 - 1e-9  # of Mallows' model: 1 is no agreement at all
CHI2_QUANTILES = 2000  # that stand for the distribution of the residual variance


@dataclass(frozen=True)
class Trust:
    """How well the order of the sweep agrees with that at a longer rung, by one objective."""

    rung: str
    metric: str
    n: int  # configurations
    num_pruned: int  # of them pruned in the sweep, and ranked below the finished ones by how far they came
    tau: float  # Kendall's tau-b
    p: float  # of tau = 0, two-sided, exact without ties
    low: float  # 95 % interval of tau
    high: float
    regret: float  # what the best configuration has at the longer rung above the sweep's choice, in the metric's units
    regret_AP: float  # the same in AP (0..1), by AP; NaN where nothing was detected in any
    num_finished: int  # trials of the sweep, which the next is about
    regression: tuple[float, float, float]  # tau over all of them with its 95 % interval (`regression_tau`); may be NaN

    @property
    def sentence(self) -> str:
        """All of it in words."""
        scale = 100 if in_points(self.metric) else 1
        pruned = f", {self.num_pruned} of them pruned in the sweep" if self.num_pruned else ""
        text = (
            f"{self.metric} at {self.rung}: Kendall's tau {self.tau:.2f} (95 % interval {self.low:.2f} to "
            f"{self.high:.2f}, p = {self.p:.2g}, N = {self.n} configurations{pruned}){self._over_all()}; top-1 regret "
            f"{scale * self.regret:.3g}"
        )
        if in_points(self.metric):
            return text + " AP points"
        known = self.regret_AP == self.regret_AP
        return text + (f", {100 * self.regret_AP:.3g} AP points" if known else "; nothing is detected yet")

    def _over_all(self) -> str:
        tau, low, high = self.regression
        if tau != tau:
            return ""
        return f"; over all {self.num_finished} finished trials, by regression, {tau:.2f} ({low:.2f} to {high:.2f})"


def ranking(frame: pd.DataFrame, metric: str, direction: str) -> pd.DataFrame:
    """The trials that have a value, best first, with a column `rank` (1, 2, ...; equal ones share the better).

    Finished trials come before pruned ones, and those pruned later before those pruned earlier: their last values are
    from different points of the schedule.

    frame:  of `trial_frame`
    """
    known = frame[frame["state"].isin(["finished", "pruned"]) & frame[metric].notna()].copy()
    sign = -1 if direction == MAXIMIZE else 1
    known["_key"] = list(
        zip(known["state"] != "finished", -known["evaluations"].where(known["state"] == "pruned", 0),
            sign * known[metric], strict=True)
    )  # fmt: skip
    known = known.sort_values(["_key", "number"])
    keys = known.pop("_key").tolist()
    known["rank"] = [keys.index(key) + 1 for key in keys]
    return known.reset_index(drop=True)


def spread(ranked: pd.DataFrame, count: int) -> list[int]:
    """Numbers of `count` trials spread over the ranking: the best and the last, and evenly between them, where the best
    of the known recipes replaces its neighbour. All, where there are not more.

    ranked:  of `ranking`
    """
    if len(ranked) <= count:
        return ranked["number"].tolist()
    positions = np.linspace(0, len(ranked) - 1, count).round().astype(int).tolist()
    known = np.flatnonzero(ranked["known"] != "")
    if len(known) and known[0] not in positions:
        nearest = min(range(1, count), key=lambda i: abs(positions[i] - known[0]))
        positions[nearest] = int(known[0])
    return ranked["number"].iloc[sorted(positions)].tolist()


def trust_frame(results: SweepResults, metric: str | None = None) -> pd.DataFrame:
    """One row a configuration and rung that was run again to its end, by the sweep's rank.

    rung, number (of the sweep's trial), known, state (in the sweep: finished or pruned), evaluations (in the sweep),
    short, short_rank (among the rows of this rung), long, long_rank, short_AP, long_AP.

    metric:  an objective; the first one by default
    """
    columns = ["rung", "number", "known", "state", "evaluations", "short", "short_rank", "long", "long_rank"]
    columns += ["short_AP", "long_AP"]
    if results.trust is None:
        return pd.DataFrame(columns=columns)
    metric = metric or next(iter(results.objectives))
    direction = results.objectives[metric]
    searched = trial_frame(results.study, results.objectives)
    again = trial_frame(results.trust, results.objectives)
    stored = {trial.number: attributes_of(trial) for trial in results.trust.get_trials(deepcopy=False)}
    origin = [(stored[number].trial, stored[number].rung) for number in again["number"]]
    again[["trial", "rung"]] = origin if origin else None
    again = again[again["state"] == "finished"]
    parts = []
    for rung in results.spec["rungs"][1:]:
        longer = again[again["rung"] == rung].set_index("trial")
        order = ranking(searched[searched["number"].isin(longer.index)], metric, direction)
        order = order.rename(columns={metric: "short"}) if metric != "short" else order
        rows = order[["number", "known", "state", "evaluations", "short"]].assign(rung=rung)
        rows["short_rank"] = order["rank"]
        rows["long"] = longer[metric].reindex(order["number"]).to_numpy()
        rows["long_rank"] = rows["long"].rank(ascending=direction != MAXIMIZE, method="min").astype(int)
        for name, frame in (("short_AP", order), ("long_AP", longer.reindex(order["number"]))):
            rows[name] = frame["metrics.val/AP"].to_numpy() if "metrics.val/AP" in frame else float("nan")
        parts.append(rows[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def trust_summary(results: SweepResults) -> list[Trust]:
    """One entry a longer rung and objective that has at least six configurations; none: screening only."""
    found = []
    searched = trial_frame(results.study, results.objectives)
    for metric, direction in results.objectives.items():
        frame, finished = trust_frame(results, metric), searched.loc[searched["state"] == "finished", metric].dropna()
        for rung in results.spec["rungs"][1:]:
            rows = frame[frame["rung"] == rung]
            if len(rows) >= MIN_CONFIGURATIONS:
                found.append(_summary(rows, rung, metric, direction, finished.tolist()))
    return found


def label(results: SweepResults) -> str:
    """What the ranking of the sweep may be used for, in a few words: "screening only" until the re-runs are there."""
    found = trust_summary(results)
    if not found:
        return SCREENING
    first = found[0]
    return f"checked at {first.rung}: tau {first.tau:.2f}, N = {first.n}"


def _summary(rows: pd.DataFrame, rung: str, metric: str, direction: str, all_short: Sequence[float]) -> Trust:
    sign = 1 if direction == MAXIMIZE else -1
    test = kendalltau(rows["short_rank"], rows["long_rank"])
    low, high = tau_interval(rows["short_rank"].tolist(), rows["long_rank"].tolist())
    gain = sign * rows["long"]
    chosen = rows["short_rank"].argmin()
    AP, ended = rows["long_AP"], rows[rows["state"] == "finished"]  # the others' values are of shorter runs
    return Trust(
        rung=rung,
        metric=metric,
        n=len(rows),
        num_pruned=int((rows["state"] == "pruned").sum()),
        tau=float(test.statistic),
        p=float(test.pvalue),
        low=low,
        high=high,
        regret=float(gain.max() - gain.iloc[chosen]),
        regret_AP=float(AP.max() - AP.iloc[chosen]) if AP.max() > 0 else float("nan"),
        num_finished=len(all_short),
        regression=regression_tau(ended["short"].tolist(), ended["long"].tolist(), all_short),
    )


def tau_interval(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Interval of Kendall's tau between two rankings of n things, n small.

    Exact under Mallows' model, in which a ranking with d pairs out of order has a probability in proportion to q^d:
    those q are kept that make neither so few nor so many discordant pairs improbable, and the expected tau at the
    smallest and largest of them is returned. Unlike the normal approximation it holds for n = 6 and for tau = 1. Ties
    count as half a discordant pair, towards the wider interval.
    """
    n = len(one)
    pairs = n * (n - 1) // 2
    i, j = np.triu_indices(n, 1)
    product = np.sign(np.subtract.outer(one, one)) * np.sign(np.subtract.outer(other, other))
    discordant = float(((1 - product[i, j]) / 2).sum())
    tail = (1 - level) / 2

    def probabilities(log_q: float) -> np.ndarray:
        """Of 0..pairs discordant pairs: the product of 1 + q + ... + q^k, as a polynomial."""
        if log_q > 0:  # powers of q would overflow; to reverse a ranking is to turn q into 1 / q
            return probabilities(-log_q)[::-1]
        weights = np.ones(1)
        for k in range(1, n):
            weights = np.convolve(weights, np.exp(log_q * np.arange(k + 1)))
        return np.asarray(weights / weights.sum())

    def at_most(log_q: float, d: int) -> float:
        return float(probabilities(log_q)[: d + 1].sum())

    bound = 40.0  # of |log q|: all pairs agree, or none does
    few, many = int(np.ceil(discordant)), int(np.floor(discordant))
    worst = bound if few >= pairs else brentq(lambda x: at_most(x, few) - tail, -bound, bound)
    best = -bound if many == 0 else brentq(lambda x: 1 - at_most(x, many - 1) - tail, -bound, bound)

    def expected(log_q: float) -> float:
        return 1 - 2 * float(probabilities(log_q) @ np.arange(pairs + 1)) / pairs

    return expected(worst), expected(best)


def trust_figure(results: SweepResults, metric: str | None = None) -> go.Figure:
    """Short against long value of every configuration that was run again, one colour a rung; pruned ones are open."""
    metric = metric or next(iter(results.objectives))
    scale = 100 if in_points(metric) else 1
    name = f"{metric.removeprefix('val/')} x 100" if in_points(metric) else metric
    frame = trust_frame(results, metric)
    figure = styled(go.Figure(), 460)
    for rung in results.spec["rungs"][1:]:
        rows = frame[frame["rung"] == rung]
        figure.add_scatter(
            x=(scale * rows["short"]).tolist(),
            y=(scale * rows["long"]).tolist(),
            mode="markers+text",
            name=rung,
            text=[f"{row.number}{f' ({row.known})' if row.known else ''}" for row in rows.itertuples()],
            textposition="top center",
            marker={
                "size": 11,
                "symbol": ["circle-open" if state == "pruned" else "circle" for state in rows["state"]],
            },
            hovertemplate="trial %{text}<br>sweep %{x:.2f}<br>longer %{y:.2f}<extra></extra>",
        )
    figure.update_xaxes(title_text=f"{name} in the sweep ({results.spec['rungs'][0]}; open: where it was pruned)")
    figure.update_yaxes(title_text=f"{name} at the longer rung")
    return figure


def regression_tau(
    short: Sequence[float], long: Sequence[float], all_short: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Kendall's tau of short and long values over all trials of a sweep, with its interval, from a few re-runs.

    short, long:  [n] values of the configurations that were run again, at the sweep's rung and at the longer one
    all_short:    values of all trials that finished at the sweep's rung

    To choose re-runs by their short value biases a correlation, but not the regression of long on short; with its
    slope b and residual SD s, g = b sd(all_short) / s gives the correlation g / sqrt(1 + g^2) of normal values, whose
    tau is 2 / pi atan(g). The interval is that of the noncentral t, b over its standard error, and exact. NaN with
    fewer than three re-runs, and where the short or the long ones are all alike.
    """
    x, y = np.asarray(short, dtype=float), np.asarray(long, dtype=float)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} short values and {len(y)} long ones: one of each is needed for a configuration")
    df = len(x) - 2
    if df < 1 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan"), float("nan")
    spread = float(np.sum((x - x.mean()) ** 2))
    slope = float((x - x.mean()) @ y) / spread
    residual = float(np.sqrt(np.sum((y - y.mean() - slope * (x - x.mean())) ** 2) / df))
    if residual == 0:
        return float(np.sign(slope)), float(np.sign(slope)), float(np.sign(slope))
    t = slope * np.sqrt(spread) / residual
    # From the noncentrality to g: by the spread of all trials in place of that of the re-runs.
    scale = float(np.std(all_short, ddof=1) / np.sqrt(spread))
    found = (t, _noncentrality(t, df, (1 + level) / 2), _noncentrality(t, df, (1 - level) / 2))
    estimate, low, high = (float(2 / np.pi * np.arctan(scale * noncentrality)) for noncentrality in found)
    return estimate, low, high


def _noncentrality(t: float, df: int, probability: float) -> float:
    """Noncentrality at which a t as small as this one has the probability.

    P(T <= t) is the mean of Phi(t sqrt(V / df) - noncentrality) over V ~ chi^2, here over its quantiles: scipy's own
    distribution function is NaN in the tails.
    """
    middles = (np.arange(CHI2_QUANTILES) + 0.5) / CHI2_QUANTILES
    limits = t * np.sqrt(chdtri(df, middles) / df)

    def excess(noncentrality: float) -> float:
        return float(ndtr(limits - noncentrality).mean()) - probability

    return float(brentq(excess, limits.min() - 10, limits.max() + 10))
