"""Verdicts on contrasts: a word, the difference with its interval and its number of seeds, and the reasons.

Everything here is a pure function. Differences are in the metric's stored units (AP: 0..1); texts show its shown units
(AP: points). Better and worse are meant in the metric's direction: a smaller loss is better. They claim something of
other trainings, on other images too unless the sentence says "on these images". Before the planned number of seeds is
reached they are provisional, and rest on the SD of other runs where that is known: with one seed nothing else can tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from experiments.results import effects
from experiments.results.effects import UNKNOWN, Interval, holm
from experiments.results.image_intervals import ImageSamples, image_contrast, seeds_and_images
from experiments.results.reading.run_states import spoken
from experiments.results.reasons import reasons
from experiments.results.sequential import LEVEL, MIN_PRIOR_DF, PriorSd, seeds_to_settle, tipping_sd, variance_factor
from experiments.schema import names
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY, Contrast, contrasts
from experiments.schema.design import Design
from experiments.schema.metrics import Metric

BETTER, WORSE, EQUIVALENT = "better", "worse", "equivalent within the margin"
UNDECIDED, ONE_SEED = "undecided", "one seed"
PROVISIONALLY = {BETTER: "provisionally better", WORSE: "provisionally worse"}
ON_THESE_IMAGES = "on these images"
NO_SPREAD = "all seeds gave the same result: does the seed reach the run?"
MANY_SEEDS = 1000  # more is no advice


@dataclass(frozen=True)
class Verdict:
    """The answer to one contrast by one metric."""

    contrast: Contrast
    metric: Metric
    word: str
    seeds: Interval  # over retraining
    judged: Interval  # that the word rests on: `seeds`, or before the planned number that of the SD of other runs
    images: Interval  # over validation images, for these trained models; n 0 if it is not known
    planned: int  # seeds
    margin: float | None  # of equivalence, in the metric's shown unit; None: equivalence is not claimed
    p_value: float  # of no difference; Holm's for a secondary contrast, and for one of several metrics
    block_seconds: float = np.nan  # of training, for one more seed in all arms; NaN if it is not known
    family: int = 1  # p-values that Holm's correction is over
    reasons: tuple[str, ...] = ()

    @property
    def claim(self) -> str:
        """The word, limited to these images unless the interval of seeds and images together excludes 0."""
        limited = self.word in (BETTER, WORSE) and self._rests_on_images and not excludes_zero(self.both)
        return f"{self.word} {ON_THESE_IMAGES}" if limited else self.word

    @property
    def both(self) -> Interval:
        """The difference with the interval of seeds and images together; n 0 if either is not known."""
        known = np.isfinite(self.seeds.se) and np.isfinite(self.images.se)
        return seeds_and_images(self.seeds, self.images) if known else UNKNOWN

    @property
    def text(self) -> str:
        """One sentence, with the difference, its interval, N and the reasons."""
        return f"{self.contrast.described}: {self.claim} ({'; '.join(self.evidence())}){self._because()}"

    @property
    def short(self) -> str:
        """The same with the two first reasons only."""
        return f"{self.contrast.label}: {self.claim} ({'; '.join(self.evidence())}){self._because(2)}"

    def _because(self, most: int | None = None) -> str:
        if not self.reasons:
            return ""
        claims = (BETTER, WORSE, *PROVISIONALLY.values())
        kind = "note" if self.word in claims else "reason"  # a note limits a claim, and does not explain it
        return f"; {kind}{'s' if len(self.reasons[:most]) > 1 else ''}: {'; '.join(self.reasons[:most])}"

    def evidence(self) -> list[str]:
        """The difference with its interval and N, the limits of the claim, and what would settle it."""
        if self.seeds.n == 0:
            return ["no seed has finished in all its arms"]
        parts = [self._difference(), self._over_images(), self._prior(), self._one_seed(), self._no_spread()]
        return [part for part in [*parts, self._within_margin(), self._settles(), self._correction()] if part]

    def _difference(self) -> str:
        n = self.seeds.n
        interval = f", interval {self._range(self.seeds)}" if n > 1 and self.seeds.se > 0 else ""
        of = f" of {self.planned} planned" if n < self.planned else ""
        difference = f"difference {self.metric.difference(self.seeds.estimate)} {self.metric.label}"
        return f"{difference}{interval}, {n} {'seed' if n == 1 else 'seeds'}{of}"

    def _over_images(self) -> str:
        if self.seeds.n == 1 and self.metric.precision is None:
            return f"{self.metric.label} has no interval over images"
        if self.seeds.n == 1 and np.isfinite(self.images.se):
            return f"interval over images {self._range(self.images)}"
        if self.claim != self.word and self.both.n:
            return f"interval over seeds and images {self._range(self.both)}"
        return ""

    def _prior(self) -> str:
        if self.judged == self.seeds:
            return ""
        return f"interval {self._range(self.judged)} if seeds scatter as in earlier runs"

    def _one_seed(self) -> str:
        if self.word != ONE_SEED:
            return ""
        sd = tipping_sd(self.seeds.estimate, variance_factor(self.contrast.weights.values(), 1))
        shown = f"{self.metric.shown(sd)}{' points' * (self.metric.unit == 'points')}"
        return f"seeds alone would make this if the SD of {self.metric.label} between trainings were over {shown}"

    def _no_spread(self) -> str:
        return NO_SPREAD if self.seeds.n > 1 and self.seeds.se == 0 else ""

    def _within_margin(self) -> str:
        if self.word == EQUIVALENT:
            return f"margin {self.margin:g}"
        early = self.word == UNDECIDED and equivalence_p(self.judged, self.stored_margin) < LEVEL
        return f"within the margin of {self.margin:g} so far" if early else ""

    def _settles(self) -> str:
        """ "about 34 seeds (2.1 h more) would settle a difference of this size, about 7 (12 min more) the margin"."""
        if self.word != UNDECIDED:
            return ""
        sizes = {"a difference of this size": self.seeds.estimate, "one of the margin": self.stored_margin or 0.0}
        found = {size: seeds_to_settle(self.seeds, difference) for size, difference in sizes.items()}
        parts = [f"{self._cost(n)} would settle {size}" for size, n in found.items() if n and n > self.seeds.n]
        return ", ".join(parts)

    def _cost(self, num_seeds: int) -> str:
        """ "about 34 seeds (2.1 h more)"."""
        if num_seeds > MANY_SEEDS:
            return f"more than {MANY_SEEDS} seeds"
        seconds = (num_seeds - self.seeds.n) * self.block_seconds
        return f"about {num_seeds} seeds" + (f" ({spoken(seconds)} more)" if np.isfinite(seconds) else "")

    def _correction(self) -> str:
        if self.contrast.role == EXPLORATORY:
            return "exploratory, not corrected for the number of comparisons"
        if np.isfinite(self.p_value) and (self.contrast.role == SECONDARY or self.family > 1):
            return f"p {probability(self.p_value)} after Holm"
        return ""

    def _range(self, interval: Interval) -> str:
        return f"{self.metric.difference(interval.low)} to {self.metric.difference(interval.high)}"

    @property
    def _rests_on_images(self) -> bool:
        return self.metric.key.startswith(("val/", "diagnostics/"))

    @property
    def stored_margin(self) -> float | None:
        """The margin in the metric's stored unit."""
        return None if self.margin is None else self.margin / self.metric.scale


def verdicts(
    design: Design,
    runs: pd.DataFrame,
    images: Mapping[str, ImageSamples],
    conditions: pd.DataFrame,
    priors: Mapping[str, PriorSd] | None = None,
) -> list[Verdict]:
    """The verdict on every contrast of the design by each of its metrics, primary ones first.

    The p-values of several primary metrics are Holm-corrected together, and so are those of all secondary contrasts.

    runs:        one row a finished run: arm, seed and a column a metric, in stored units
    images:      metric's key -> the arms' AP on samples of the images; metrics and arms may be missing
    conditions:  one row a run and condition: arm, seed, condition, reason
    priors:      metric's key -> the SD of earlier runs, for words before the planned number of seeds is reached
    """
    found = [
        _unjudged(design, one, metric, runs, images.get(metric.key), (priors or {}).get(metric.key), conditions)
        for one in contrasts(design)
        for metric in design.metrics
    ]
    equivalence = [equivalence_p(one.judged, one.stored_margin) for one in found]
    for role in (PRIMARY, SECONDARY):
        of_role = [i for i, one in enumerate(found) if one.contrast.role == role]
        differ, equal = (holm([p[i] for i in of_role]) for p in ([one.p_value for one in found], equivalence))
        for i, p_value, equivalent in zip(of_role, differ, equal, strict=True):
            found[i] = replace(found[i], p_value=float(p_value), family=len(of_role))
            equivalence[i] = float(equivalent)
    return [
        replace(one, word=decide(one.judged, one.planned, one.p_value, equivalent, one.metric.sign))
        for one, equivalent in zip(found, equivalence, strict=True)
    ]


def _unjudged(
    design: Design,
    contrast: Contrast,
    metric: Metric,
    runs: pd.DataFrame,
    images: ImageSamples | None,
    prior: PriorSd | None,
    conditions: pd.DataFrame,
) -> Verdict:
    """Everything about a verdict but its word, which waits for Holm's correction."""
    seeds, planned = seed_difference(runs, contrast, metric), len(design.seeds)
    judged = _with_prior(seeds, contrast, prior) if prior and not is_final(seeds, planned) else seeds
    return Verdict(
        contrast=contrast,
        metric=metric,
        word="",
        seeds=seeds,
        judged=judged,
        images=image_difference(images, contrast),
        planned=planned,
        margin=design.margin_of(metric),
        p_value=judged.p_value,
        block_seconds=_block_seconds(design, runs),
        reasons=tuple(reasons(contrast, runs, conditions, metric)),
    )


def _with_prior(seeds: Interval, contrast: Contrast, prior: PriorSd) -> Interval:
    """The interval with the prior's SD in place of that of the seeds; their own where the prior cannot tell."""
    if seeds.n == 0 or seeds.se == 0 or prior.df < MIN_PRIOR_DF:
        return seeds
    return prior.interval(seeds.estimate, contrast.weights.values(), seeds.n)


def _block_seconds(design: Design, runs: pd.DataFrame) -> float:
    """Seconds of training of one seed in all arms, from the runs that have finished; NaN until every arm has one."""
    if names.SECONDS not in runs:
        return float("nan")
    seconds = runs.groupby("arm")[names.SECONDS].mean().reindex(list(design.arms))
    return float(seconds.sum(skipna=False))


def is_final(difference: Interval, planned: int) -> bool:
    """Whether the planned number of seeds is reached, and an interval over them can be claimed."""
    return 2 <= difference.n >= planned


def decide(difference: Interval, planned: int, p_value: float, equivalence: float, sign: int = 1) -> str:
    """The word for a difference over seeds.

    An interval that lies within the margin, even beside 0, is equivalence: the difference may be real, and does not
    matter. Before the planned number of seeds neither is claimed, and better and worse are provisional.

    p_value:      of no difference, after Holm's correction; NaN if it cannot be told
    equivalence:  p-value of a difference as large as the margin (`equivalence_p`), corrected alike
    sign:         1 if higher values are better, -1 if lower ones are
    """
    final = is_final(difference, planned)
    if equivalence < LEVEL and final:
        return EQUIVALENT
    if p_value < LEVEL and not equivalence < LEVEL:
        word = BETTER if sign * difference.estimate > 0 else WORSE
        return word if final else PROVISIONALLY[word]
    return ONE_SEED if difference.n == 1 else UNDECIDED


def equivalence_p(difference: Interval, margin: float | None) -> float:
    """P-value of a difference as large as the margin: below LEVEL where the 95 % interval is inside the margin.

    Two one-sided tests at half the level each, so that word and interval agree. NaN if either is not known.
    """
    if margin is None or not difference.se > 0:
        return float("nan")
    sides = ((difference.estimate + margin) / difference.se, (margin - difference.estimate) / difference.se)
    return float(min(1.0, 2 * max(stats.t.sf(side, difference.df) for side in sides)))


def excludes_zero(interval: Interval) -> bool:
    """Whether the whole interval is on one side of 0; False if it is not known."""
    return interval.low > 0 or interval.high < 0


def seed_difference(runs: pd.DataFrame, contrast: Contrast, metric: Metric) -> Interval:
    """The contrast's difference in the metric with its interval over seeds; n 0 if an arm has no run with a value."""
    return seed_interval(runs, contrast.weights, metric)


def seed_interval(runs: pd.DataFrame, weights: Mapping[str, float], metric: Metric) -> Interval:
    """Weighted sum of the arms' means with its interval over seeds; values that are not finite do not count, and of a
    seed that stands twice in an arm the first does.
    """
    if metric.column not in runs:
        return UNKNOWN
    known = runs[["arm", "seed", metric.column]].drop_duplicates(["arm", "seed"])
    known = known[np.isfinite(known[metric.column].astype(float))]
    return effects.contrast(known, weights, metric.column) if set(weights) <= set(known["arm"]) else UNKNOWN


def image_difference(samples: ImageSamples | None, contrast: Contrast) -> Interval:
    """The same difference with its interval over the validation images; n 0 if an arm has no predictions."""
    known = samples is not None and set(contrast.weights) <= set(samples.observed.index)
    return image_contrast(samples, contrast.weights) if samples is not None and known else UNKNOWN


def probability(p_value: float) -> str:
    """A p-value to two digits; small ones by their bound, since their digits rest on the tails of t."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"
