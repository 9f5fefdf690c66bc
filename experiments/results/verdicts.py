"""Verdicts on contrasts: a word, the difference with its interval and its number of seeds, and the reasons.

Everything here is a pure function. Differences are in the metric's stored units (AP: 0..1); texts show its shown units
(AP: points). Better and worse are meant in the metric's direction: a smaller loss is better. Over two or more seeds the
claim is about retraining, with a t interval of the same-seed differences. With one seed it can only be about these
checkpoints on these images, by the bootstrap over images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.results.effects import UNKNOWN, Interval, holm, image_difference, paired_difference
from experiments.results.reasons import reasons
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY, Contrast, contrasts
from experiments.schema.design import Design
from experiments.schema.metrics import Metric

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent within the margin"
NOT_DISTINGUISHABLE, NOT_ENOUGH_SEEDS = "not distinguishable", "not enough seeds"
MIN_SEEDS = 6  # below, 2 / 2**n is over 0.05: no sign-flip test can reach it, whatever the differences are
LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """The answer to one contrast by one metric."""

    contrast: Contrast
    metric: Metric
    word: str
    seeds: Interval  # over retraining, paired by seed
    images: Interval  # over validation images, for these trained models; n 0 if it is not known
    planned: int  # seeds
    margin: float | None  # of equivalence, in the metric's shown unit; None: equivalence is not claimed
    p_value: float  # of no difference over seeds; Holm's for a secondary contrast, and for one of several metrics
    family: int = 1  # p-values that Holm's correction is over
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One sentence, with the difference, its interval, N and the reasons."""
        return f"{self.contrast.described}: {self.word} ({'; '.join(self.evidence())}){self._because()}"

    @property
    def short(self) -> str:
        """The same with the two first reasons only."""
        return f"{self.contrast.label}: {self.word} ({'; '.join(self.evidence())}){self._because(2)}"

    def _because(self, most: int | None = None) -> str:
        if not self.reasons:
            return ""
        kind = "note" if self.word in (BETTER, WORSE) else "reason"  # these limit a claim, and do not explain it
        return f"; {kind}{'s' if len(self.reasons[:most]) > 1 else ''}: {'; '.join(self.reasons[:most])}"

    def evidence(self) -> list[str]:
        """The difference with its interval and N, and the limits of the claim."""
        return [self._difference(), *self._limits(), *self._role()]

    def _difference(self) -> str:
        n, show = self.seeds.n, self.metric.difference
        if n == 0:
            return "no seed has finished in all its arms"
        parts = [f"difference {show(self.seeds.estimate)} {self.metric.label}"]
        if n > 1:
            parts.append(f"interval {show(self.seeds.low)} to {show(self.seeds.high)}")
        of = f" of {self.planned} planned" if n < self.planned else ""
        return ", ".join([*parts, f"{n} {'seed' if n == 1 else 'seeds'}{of}"])

    def _limits(self) -> list[str]:
        if self.seeds.n == 1 and self.metric.precision is None:
            return [f"{self.metric.label} has no interval over images"]
        if self.seeds.n == 1 and self.images.n:
            show = self.metric.difference
            interval = f"interval over images {show(self.images.low)} to {show(self.images.high)}"
            differ = self.images.low > 0 or self.images.high < 0
            claim = "differ" if differ else "cannot be told apart"
            which = "these two checkpoints" if len(self.contrast.pairs) == 1 else "these checkpoints"
            return [f"{which} {claim} on these images, {interval}"]
        if self.word == NOT_ENOUGH_SEEDS and within(self.seeds, self.stored_margin):
            return [f"within the margin of {self.margin:g}, which takes {MIN_SEEDS} seeds to claim"]
        if self.word == NOT_ENOUGH_SEEDS and self.seeds.n > 1:
            return [f"with fewer than {MIN_SEEDS} seeds no sign-flip test can reach p < {LEVEL}"]
        if self.word == EQUIVALENT:
            return [f"margin {self.margin:g}"]
        return []

    def _role(self) -> list[str]:
        if self.contrast.role == EXPLORATORY:
            return ["exploratory, not corrected for the number of comparisons"]
        if self.seeds.n >= MIN_SEEDS and (self.contrast.role == SECONDARY or self.family > 1):
            return [f"p {probability(self.p_value)} after Holm"]
        return []

    @property
    def stored_margin(self) -> float | None:
        """The margin in the metric's stored unit."""
        return None if self.margin is None else self.margin / self.metric.scale


def verdicts(
    design: Design,
    runs: pd.DataFrame,
    replicates: Mapping[str, pd.DataFrame],
    conditions: pd.DataFrame,
) -> list[Verdict]:
    """The verdict on every contrast of the design by each of its metrics, primary ones first.

    The p-values of several primary metrics are Holm-corrected together, and so are those of all secondary contrasts.

    runs:        one row a finished run: arm, seed and a column a metric, in stored units
    replicates:  metric's key -> bootstrap over images, one row a replicate, a column an arm (resample_seeds=False);
                 metrics and arms may be missing
    conditions:  one row a run and condition: arm, seed, condition, reason
    """
    found = [
        _undecided(design, contrast, metric, runs, replicates.get(metric.key, pd.DataFrame()), conditions)
        for contrast in contrasts(design)
        for metric in design.metrics
    ]
    for role in (PRIMARY, SECONDARY):
        of_role = [i for i, verdict in enumerate(found) if verdict.contrast.role == role]
        corrected = holm([found[i].p_value for i in of_role])
        for i, p_value in zip(of_role, corrected, strict=True):
            found[i] = replace(found[i], p_value=float(p_value), family=len(of_role))
    return [replace(one, word=decide(one.seeds, one.p_value, one.stored_margin, one.metric.sign)) for one in found]


def _undecided(
    design: Design,
    contrast: Contrast,
    metric: Metric,
    runs: pd.DataFrame,
    replicates: pd.DataFrame,
    conditions: pd.DataFrame,
) -> Verdict:
    """Everything about a verdict but its word, which waits for Holm's correction."""
    seeds = seed_difference(runs, contrast, metric)
    why = tuple(reasons(contrast, runs, conditions, metric))
    images, planned, margin = image_interval(replicates, contrast), len(design.seeds), design.margin_of(metric)
    return Verdict(contrast, metric, "", seeds, images, planned, margin, seeds.p_value, reasons=why)


def decide(difference: Interval, p_value: float, margin: float | None, sign: int = 1) -> str:
    """The word for a difference over seeds.

    An interval that lies within the margin, even beside 0, is equivalence: the difference may be real, and does not
    matter. Below MIN_SEEDS nothing is claimed, and an interval that would claim something says "not enough seeds".

    margin:  of equivalence, in the difference's unit; None: equivalence is not claimed
    sign:    1 if higher values are better, -1 if lower ones are
    """
    if difference.n < 2:
        return NOT_ENOUGH_SEEDS
    equivalent = within(difference, margin)
    if not equivalent and not p_value < LEVEL:
        return NOT_DISTINGUISHABLE
    if difference.n < MIN_SEEDS:
        return NOT_ENOUGH_SEEDS
    if equivalent:
        return EQUIVALENT
    return BETTER if sign * difference.estimate > 0 else WORSE


def within(difference: Interval, margin: float | None) -> bool:
    """Whether the whole interval is inside the margin; False if either is not known."""
    return margin is not None and -margin < difference.low and difference.high < margin


def seed_difference(runs: pd.DataFrame, contrast: Contrast, metric: Metric) -> Interval:
    """Mean over seeds of the first side's mean minus the second's; only seeds that every arm of it has count."""
    sides = []
    for name, arms in (("arm", contrast.arms), ("against", contrast.against)):
        values = _by_seed(runs, metric.column).reindex(columns=arms).mean(axis=1, skipna=False).dropna()
        sides.append(pd.DataFrame({"arm": name, "seed": values.index, "value": values.to_numpy(float)}))
    if any(side.empty for side in sides):
        return UNKNOWN
    return paired_difference(pd.concat(sides), "arm", "against", "value")


def image_interval(replicates: pd.DataFrame, contrast: Contrast) -> Interval:
    """The same difference over bootstrap replicates of the validation images."""
    if not {*contrast.arms, *contrast.against} <= set(replicates.columns):
        return UNKNOWN
    sides = {"arm": replicates[contrast.arms].mean(axis=1), "against": replicates[contrast.against].mean(axis=1)}
    return image_difference(pd.DataFrame(sides), "arm", "against")


def probability(p_value: float) -> str:
    """A p-value to two digits; small ones by their bound, since their digits rest on the tails of t."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def _by_seed(runs: pd.DataFrame, column: str) -> pd.DataFrame:
    """Seeds as rows, arms as columns; the first run if a seed stands twice in an arm."""
    if column not in runs:
        return pd.DataFrame(index=pd.Index([], name="seed"))
    by_seed = runs.groupby(["seed", "arm"])[column].first().unstack("arm")  # a pivot table takes five times as long
    return by_seed.where(np.isfinite(by_seed))
