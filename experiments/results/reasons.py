"""Reasons of a contrast's outcome, from what training logged: pure functions on plain frames."""

from collections.abc import Iterator

import pandas as pd

from experiments.schema.contrasts import Contrast, listed
from experiments.schema.metrics import Metric

CLIP = "optim.clip_norm"
ALWAYS, NEVER = 0.9995, 0.0005  # of the steps, to what is shown
NOTHING = 0.005  # AP, 0..1
UNLIKE = 1.5  # ratio from which a diagnostic of two arms is worth a word
SIGNALS = {  # key -> its words, and the difference below which nobody would care
    "diagnostics/matching_instability": ("queries per image that changed their object between evaluations", 0.5),
    "diagnostics/query_use": ("share of queries ever matched", 0.1),
    "diagnostics/duplicates": ("share of detections that repeat a better one", 0.1),
    "diagnostics/prediction_variance_boxes": ("variance of boxes over images in units of the objects'", 0.1),
}


def reasons(contrast: Contrast, runs: pd.DataFrame, conditions: pd.DataFrame, metric: Metric) -> list[str]:
    """Explanations and limits of the contrast's difference in the metric, most telling first.

    runs:        one row a finished run: arm, seed and its latest metrics, of which all are optional
    conditions:  one row a run and condition: arm, seed, condition, reason (see `conditions`)
    """
    sides = [runs[runs["arm"].isin(side)] for side in (contrast.arms, contrast.against)]
    found = [_nothing_learnt(metric, *sides), _confounded(contrast), _clipping(contrast, *sides), _lengths(*sides)]
    found += _conditions(contrast, runs, conditions)
    found += _signals(*sides)
    return [text for text in found if text]


def _nothing_learnt(metric: Metric, one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Two arms that detect nothing do not differ in AP or AR, whatever else they do."""
    both = pd.concat([one, other])
    if metric.unit != "points" or metric.column not in both or not both[metric.column].max() < NOTHING:
        return ""
    return f"no run reaches an {metric.label} of {metric.scale * NOTHING:g}: they are too short to differ in it"


def _confounded(contrast: Contrast) -> str:
    if len(contrast.changes) < 2:
        return ""
    return f"{listed(contrast.changes)} change at once, so no single one of them is shown to be the cause"


def _clipping(contrast: Contrast, one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Explain by the share of clipped steps, if the bound was changed."""
    shares = [_mean(side, "train/clip_fraction") for side in (one, other)]
    if CLIP not in contrast.changes or any(share != share for share in shares):
        return ""
    where = "both arms" if len(contrast.pairs) == 1 else "all arms"
    shown = f"({', '.join(_percent(share) for share in shares)})"
    if min(shares) >= 0.95:
        # Both gradients have the norm of their bound, so their ratio is that of the bounds, the same at every step.
        how = "every step" if min(shares) >= ALWAYS else "nearly every step"
        other_changes = "the clip norm hardly matters: " if len(contrast.changes) > 1 else ""
        return f"{other_changes}{how} was clipped in {where} {shown}, and AdamW cancels a constant scale"
    if max(shares) <= NEVER:
        return f"no step was clipped in {where} {shown}: the bound was never reached"
    return f"the bound was in effect to different degrees: share of clipped steps {shown}"


def _lengths(one: pd.DataFrame, other: pd.DataFrame) -> str:
    steps = [_mean(side, "progress/step") for side in (one, other)]
    if any(value != value for value in steps) or steps[0] == steps[1]:
        return ""
    return f"the arms ran {steps[0]:.0f} and {steps[1]:.0f} steps"


def _conditions(contrast: Contrast, runs: pd.DataFrame, conditions: pd.DataFrame) -> Iterator[str]:
    """ "under-trained: 3 of 4 runs (recipe=official,clip=0.1, seed 0: validation loss ...)"."""
    arms = {*contrast.arms, *contrast.against}
    known = {(run.arm, run.seed) for run in runs.itertuples() if run.arm in arms}
    for condition, rows in conditions[conditions["arm"].isin(arms)].groupby("condition", sort=False):
        affected = {(row.arm, row.seed) for row in rows.itertuples()}
        first = rows.iloc[0]
        yield (
            f"{condition}: {len(affected)} of {len(known | affected)} runs "
            f"(as {first['arm']}, seed {first['seed']}: {first['reason']})"
        )


def _signals(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[str]:
    for key, (name, least) in SIGNALS.items():
        low, high = sorted(values := [_mean(side, key) for side in (one, other)])
        if high > UNLIKE * low and high - low >= least:  # never where one is NaN
            yield f"{name}: {values[0]:.3g} against {values[1]:.3g}"


def _mean(runs: pd.DataFrame, key: str) -> float:
    return float(runs[key].mean()) if key in runs and len(runs) else float("nan")


def _percent(share: float) -> str:
    """100 % is all steps and 0 % none; anything between shows as such."""
    return (
        f"{100 * share:.0f} %" if share >= ALWAYS or share <= NEVER or 0.01 <= share < 0.99 else f"{100 * share:.1f} %"
    )
