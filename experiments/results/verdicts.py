"""Verdicts on contrasts: a word, the difference with its interval and its number of seeds, and the reasons.

Everything here is a pure function. Differences are in the metric's units (0..1); texts show AP times 100. Over two or
more seeds the claim is about retraining, with a t interval of the same-seed differences. With one seed it can only be
about these checkpoints on these images, by the bootstrap over images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from experiments.results.effects import UNKNOWN, Interval, holm, image_difference, paired_difference
from experiments.results.reasons import reasons
from experiments.schema.contrasts import EXPLORATORY, SECONDARY, Contrast, contrasts

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent within the margin"
NOT_DISTINGUISHABLE, NOT_ENOUGH_SEEDS = "not distinguishable", "not enough seeds"
MIN_SEEDS = 6  # below, 2 / 2**n is over 0.05: no sign-flip test can reach it, whatever the differences are
LEVEL = 0.05
METRIC = "val/AP"


@dataclass(frozen=True)
class Verdict:
    """The answer to one contrast."""

    contrast: Contrast
    word: str
    seeds: Interval  # over retraining, paired by seed
    images: Interval  # over validation images, for these trained models; n 0 where it is not known
    planned: int  # seeds
    margin: float  # of equivalence, in the metric's units
    p_value: float  # of no difference over seeds; Holm's for a secondary contrast
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
        """What the word rests on: the difference with its interval and N, and what limits it."""
        return [self._difference(), *self._limits(), *self._role()]

    def _difference(self) -> str:
        n = self.seeds.n
        if n == 0:
            return "no seed has finished in all its arms"
        parts = [f"difference {points(self.seeds.estimate)} AP"]
        if n > 1:
            parts.append(f"interval {points(self.seeds.low)} to {points(self.seeds.high)}")
        of = f" of {self.planned} planned" if n < self.planned else ""
        return ", ".join([*parts, f"{n} {'seed' if n == 1 else 'seeds'}{of}"])

    def _limits(self) -> list[str]:
        """What else the word rests on."""
        if self.seeds.n == 1 and self.images.n:
            interval = f"interval over images {points(self.images.low)} to {points(self.images.high)}"
            differ = self.images.low > 0 or self.images.high < 0
            claim = "differ" if differ else "cannot be told apart"
            which = "these two checkpoints" if len(self.contrast.pairs) == 1 else "these checkpoints"
            return [f"{which} {claim} on these images, {interval}"]
        if self.word == NOT_ENOUGH_SEEDS and within(self.seeds, self.margin):
            return [f"within the margin of {100 * self.margin:g}, which takes {MIN_SEEDS} seeds to claim"]
        if self.word == NOT_ENOUGH_SEEDS and self.seeds.n > 1:
            return [f"with fewer than {MIN_SEEDS} seeds no sign-flip test can reach p < {LEVEL}"]
        if self.word == EQUIVALENT:
            return [f"margin {100 * self.margin:g}"]
        return []

    def _role(self) -> list[str]:
        if self.contrast.role == EXPLORATORY:
            return ["exploratory, not corrected for the number of comparisons"]
        if self.contrast.role == SECONDARY and self.seeds.n >= MIN_SEEDS:
            return [f"p {probability(self.p_value)} after Holm"]
        return []


def verdicts(
    design: Mapping[str, Any],
    runs: pd.DataFrame,
    replicates: pd.DataFrame,
    conditions: pd.DataFrame,
) -> list[Verdict]:
    """The verdict on every contrast of the design, primary first.

    runs:        one row a finished run: arm, seed, val/AP (0..1) and other metrics
    replicates:  bootstrap AP, one row a replicate, a column an arm (resample_seeds=False); arms may be missing
    conditions:  one row a run and condition: arm, seed, condition, reason
    """
    margin = design.get("margin", 1.0) / 100
    found = []
    for contrast in contrasts(design):
        seeds = seed_difference(runs, contrast)
        images = image_interval(replicates, contrast)
        why = tuple(reasons(contrast, runs, conditions))
        found.append(Verdict(contrast, "", seeds, images, len(design["seeds"]), margin, seeds.p_value, why))
    secondary = [i for i, verdict in enumerate(found) if verdict.contrast.role == SECONDARY]
    for i, p_value in zip(secondary, holm([found[i].p_value for i in secondary]), strict=True):
        found[i] = replace(found[i], p_value=float(p_value))
    return [replace(verdict, word=decide(verdict.seeds, verdict.p_value, margin)) for verdict in found]


def decide(difference: Interval, p_value: float, margin: float) -> str:
    """The word for a difference over seeds.

    An interval that lies within the margin, even beside 0, is equivalence: the difference may be real, and does not
    matter. Below MIN_SEEDS nothing is claimed, and an interval that would claim something says "not enough seeds".
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
    return BETTER if difference.estimate > 0 else WORSE


def within(difference: Interval, margin: float) -> bool:
    """Whether the whole interval is inside the margin; False where there is none."""
    return -margin < difference.low and difference.high < margin


def seed_difference(runs: pd.DataFrame, contrast: Contrast, metric: str = METRIC) -> Interval:
    """Mean over seeds of the first side's mean minus the second's; only seeds that every arm of it has count."""
    sides = []
    for name, arms in (("arm", contrast.arms), ("against", contrast.against)):
        values = _by_seed(runs, metric).reindex(columns=arms).mean(axis=1, skipna=False).dropna()
        sides.append(pd.DataFrame({"arm": name, "seed": values.index, metric: values.to_numpy(float)}))
    if any(side.empty for side in sides):
        return UNKNOWN
    return paired_difference(pd.concat(sides), "arm", "against", metric)


def image_interval(replicates: pd.DataFrame, contrast: Contrast) -> Interval:
    """The same difference over bootstrap replicates of the validation images."""
    if not {*contrast.arms, *contrast.against} <= set(replicates.columns):
        return UNKNOWN
    sides = {"arm": replicates[contrast.arms].mean(axis=1), "against": replicates[contrast.against].mean(axis=1)}
    return image_difference(pd.DataFrame(sides), "arm", "against")


def points(difference: float) -> str:
    """A difference in AP points with its sign; one decimal, a true minus, and no signed zero."""
    shown = f"{100 * difference:+.1f}"
    return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")


def probability(p_value: float) -> str:
    """A p-value to two digits; small ones by their bound, since their digits rest on the tails of t."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def _by_seed(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds as rows, arms as columns; the first run where a seed stands twice in an arm."""
    if metric not in runs:
        return pd.DataFrame(index=pd.Index([], name="seed"))
    return runs.groupby(["seed", "arm"])[metric].first().unstack("arm")  # a pivot table takes five times as long
