"""Sections of a report in order, before they become Markdown, LaTeX or HTML: plain words, tables and figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from experiments.results import conditions
from experiments.results.effects import PAIRED_FROM
from experiments.results.evidence import Evidence
from experiments.results.figures import curves, outcomes
from experiments.results.reading.run_states import display_states, run_states
from experiments.results.report.tables import (
    REFERENCE_NOTE,
    arm_table,
    column,
    contrast_table,
    display_contrasts,
    display_effects,
    display_table,
    interval_table,
    reference_table,
    settings_table,
)
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY, listed
from experiments.schema.metrics import Metric

NOTABLE_BIAS = 0.5  # points


@dataclass(frozen=True)
class Plot:
    """A figure with its caption; the name becomes its id in the page."""

    name: str
    figure: go.Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, a list, tables and figures, each of which may be missing."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pictures: bool = False  # the page shows the detections here

    @property
    def reads(self) -> bool:
        """Whether it says something without its figures."""
        return bool(self.items or self.tables or (self.paragraphs and not self.plots))


def title(evidence: Evidence) -> str:
    """Name and horizon: figures of another horizon are another comparison."""
    return f"{evidence.results.design.name}: {evidence.length}"


def sections(evidence: Evidence) -> list[Section]:
    """All sections that have something to say."""
    made = [*_answer(evidence), *_outcome(evidence), *_training(evidence), *_detail(evidence), _method(evidence)]
    return [s for s in made if s.paragraphs or s.items or s.tables or s.plots or s.pictures]


def _answer(evidence: Evidence) -> Iterator[Section]:
    design = evidence.results.design
    seeds, metrics = design.seeds, listed([metric.label for metric in design.metrics])
    yield Section(
        "Question",
        [
            design.question,
            f"Design: {design.design}, {len(design.arms)} arms x {len(seeds)} "
            f"{'seed' if len(seeds) == 1 else 'seeds'} ({', '.join(map(str, seeds))}). Horizon of every run: "
            f"{design.horizon}; arms are compared at {evidence.length} by {metrics}. Baseline: {design.baseline}. "
            f"{evidence.results.completeness}",
            *evidence.notes,
        ],
    )
    first = [f"{v.contrast.role}: {v.text}" for v in evidence.verdicts if v.contrast.role in (PRIMARY, SECONDARY)]
    yield Section("Verdicts", items=first)
    more = [verdict.short for verdict in evidence.verdicts if verdict.contrast.role == EXPLORATORY]
    yield Section("Exploratory verdicts", items=more)


def _outcome(evidence: Evidence) -> Iterator[Section]:
    results, design = evidence.results, evidence.results.design
    table = arm_table(results, evidence.images)
    first = design.metric
    yield Section(
        f"{first.label} by arm",
        [
            "The last evaluation of every run, mean ± standard deviation over seeds; AP and AR times 100. Intervals "
            f"over images are about the value without its bias. {results.completeness}",
            *_biases(evidence, table),
        ],
        tables=[display_table(table, design), *(interval_table(table, metric) for metric in design.metrics)],
        plots=[
            Plot(
                _numbered("outcome", i),
                outcomes.by_arm(table, results.finished, metric, column(metric)),
                _caption(f"{metric.label} by arm", evidence),
            )
            for i, metric in enumerate(design.metrics)
        ],
    )
    yield Section("Published results", [f"For orientation only, {REFERENCE_NOTE}."], tables=[reference_table()])
    if evidence.verdicts:
        yield _differences(evidence)
    if any(not frame.empty for frame in evidence.effects.values()):
        yield _effects(evidence)


def _differences(evidence: Evidence) -> Section:
    design, contrasts = evidence.results.design, contrast_table(evidence.verdicts)
    margins = [f"{m.label} {margin:g}" for m in design.metrics if (margin := design.margin_of(m)) is not None]
    return Section(
        "Differences",
        [
            "Differences of means over seeds, AP and AR in points; intervals are not corrected for their number, p of "
            "secondary contrasts, and of several primary metrics, is Holm's. Margin of equivalence: "
            f"{', '.join(margins) or 'none was given, so equivalence is not claimed'}. A contrast that changes several "
            "settings names all of them."
        ],
        tables=[display_contrasts(evidence.verdicts)],
        plots=[
            Plot(
                _numbered("differences", i),
                outcomes.differences(of_metric(contrasts, metric), metric, design.margin_of(metric)),
                _caption(f"Differences of {metric.label}", evidence),
            )
            for i, metric in enumerate(design.metrics)
        ],
    )


def _biases(evidence: Evidence, table: pd.DataFrame) -> Iterator[str]:
    """A sentence for each metric whose values on so few images are too high by more than a difference that matters."""
    for metric in evidence.results.design.metrics:
        bias = metric.scale * table[f"{column(metric)}_bias"].max()
        if bias > NOTABLE_BIAS:
            yield (
                f"{metric.label} of this set overstates {metric.label} elsewhere by up to {bias:.1f} points: it has "
                "few images. Differences between arms hardly have this bias."
            )


def _effects(evidence: Evidence) -> Section:
    design = evidence.results.design
    known = [metric for metric in design.metrics if metric.key in evidence.effects]
    larger = [factor for factor, levels in design.factors.items() if len(levels) > 2]
    without = f" Interactions of {listed(larger)} are left out: more than two levels." if larger else ""
    return Section(
        "Effects and interactions",
        [
            f"Effects on {listed([metric.label for metric in known])}, AP and AR in points, averaged over the other "
            "factors' levels, with the intervals of the contrasts above; an interaction is half of what one factor's "
            f"effect gains by the other's second level.{without} {evidence.results.completeness}"
        ],
        tables=[display_effects(evidence.effects[metric.key], metric) for metric in known],
        plots=[
            Plot(
                _numbered("effects", i),
                outcomes.effects(evidence.effects[metric.key], metric),
                _caption(f"Effects on {metric.label}", evidence),
            )
            for i, metric in enumerate(known)
        ],
    )


def of_metric(contrasts: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows of `contrast_table` that are of one metric."""
    return contrasts[contrasts["metric"] == metric.key].reset_index(drop=True)


def _numbered(name: str, i: int) -> str:
    """Name of the figure of the i-th metric."""
    return f"{name}-{i + 1}" if i else name


def _training(evidence: Evidence) -> Iterator[Section]:
    design, records = evidence.results.design, evidence.records
    own = {metric.column: metric.heading for metric in design.metrics}
    groups = [
        ("losses", "Losses and AP over the run", own | curves.LOSSES),
        ("rates", "Learning rates", curves.RATES),
        ("clipping", "Clipping", curves.CLIPPING),
        ("entropy", "Attention entropy of the decoder (1: spread evenly)", curves.entropy_metrics(records)),
        ("matching", "Matching", curves.MATCHING),
    ]
    made = [(name, caption, curves.panels(records, metrics, list(design.arms))) for name, caption, metrics in groups]
    plots = [Plot(name, figure, _caption(caption, evidence)) for name, caption, figure in made if figure is not None]
    missing = [caption for _, caption, figure in made if figure is None]
    yield Section(
        "Training",
        ["Lines are means over seeds, bands reach from the lowest to the highest seed."] if plots else [],
        items=[f"Not logged by these runs: {caption}." for caption in missing] if plots else [],
        plots=plots,
    )
    if not evidence.conditions.empty:
        shown = conditions.summary(evidence.conditions).astype(str)
        rules = [f"{name}: {conditions.RULES[name]}." for name in shown["condition"].unique()]
        yield Section("Faults of single runs", items=rules, tables=[shown])


def _detail(evidence: Evidence) -> Iterator[Section]:
    results = evidence.results
    if not evidence.classes.empty:
        label, classes, metric = evidence.verdicts[0].contrast.label, evidence.classes, evidence.by_class
        shown = pd.DataFrame(
            {
                "class": classes["class"],
                "first side": [metric.shown(value) for value in classes["arm"]],
                "second side": [metric.shown(value) for value in classes["against"]],
                "difference": [metric.difference(value) for value in classes["difference"]],
                "interval over images": [
                    f"{metric.difference(low)} to {metric.difference(high)}" if low == low else "–"
                    for low, high in zip(classes["low"], classes["high"], strict=True)
                ],
            }
        )
        caption = _caption(f"{label}, by class", evidence)
        plot = Plot("classes", outcomes.class_differences(classes, metric), caption)
        yield Section("Classes", [f"{metric.heading} of each class: {label}."], tables=[shown], plots=[plot])
    yield Section("Detections", pictures=bool(evidence.scenes))
    if any(results.design.settings.values()):
        yield Section("Settings that differ between arms", tables=[settings_table(results.design.settings)])
    yield Section("Runs", tables=[display_states(run_states(results, {}), results.design.metric)])


def _method(evidence: Evidence) -> Section:
    images = next(iter(evidence.images.values()), None)
    without = [m.label for m in evidence.results.design.metrics if m.precision is None]
    over_images = "There are no intervals over images."
    if images is not None:
        how = (
            "t intervals with the jackknife's standard error"
            if images.left_out is not None
            else f"percentiles of {len(images.replicates)} bootstrap replicates, images weighted alike in every arm"
        )
        over_images = f"Intervals over images: {how}, seeds kept as they are."
    if without:
        over_images += f" {listed(without)}: only AP has intervals over images."
    return Section(
        "Method",
        items=[
            f"Intervals over seeds: 95 % t intervals; below {PAIRED_FROM} seeds with the larger of Welch's error and "
            "that of same-seed differences, from there on with the latter. Intervals over images say nothing of other "
            "seeds, and the other way round.",
            over_images,
            "Better and worse: the interval over seeds excludes 0; on these images, unless that of seeds and images "
            "together does so too. Equivalent: the interval lies within the margin. Provisional: before the planned "
            "number of seeds.",
            "Arms of one seed see the same order of images and start from the same weights where their models agree.",
        ],
    )


def _caption(text: str, evidence: Evidence) -> str:
    return f"{text}. {evidence.results.completeness}"
