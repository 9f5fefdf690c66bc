"""What a report says, in order, before it becomes Markdown, LaTeX or HTML: plain words, tables of texts and figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from experiments.results import conditions
from experiments.results.evidence import Evidence
from experiments.results.figures import curves, outcomes
from experiments.results.reading.run_states import display_states, run_states
from experiments.results.report.tables import (
    REFERENCE_NOTE,
    arm_table,
    contrast_table,
    display_contrasts,
    display_effects,
    display_table,
    interval_table,
    reference_table,
    settings_table,
)
from experiments.results.verdicts import MIN_SEEDS, points
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY


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
    design = evidence.results.design
    return f"{design['name']}: {evidence.length}"


def sections(evidence: Evidence) -> list[Section]:
    """All sections that have something to say."""
    made = [*_answer(evidence), *_outcome(evidence), *_training(evidence), *_detail(evidence), _method(evidence)]
    return [s for s in made if s.paragraphs or s.items or s.tables or s.plots or s.pictures]


def _answer(evidence: Evidence) -> Iterator[Section]:
    design = evidence.results.design
    seeds = design["seeds"]
    yield Section(
        "Question",
        [
            design["question"],
            f"Design: {design['design']}, {len(design['arms'])} arms x {len(seeds)} "
            f"{'seed' if len(seeds) == 1 else 'seeds'} ({', '.join(map(str, seeds))}). Horizon of every run: "
            f"{design['horizon']}; arms are compared at {evidence.length}. Baseline: {design['baseline']}. "
            f"{evidence.results.completeness}",
            *evidence.notes,
        ],
    )
    first = [f"{v.contrast.role}: {v.text}" for v in evidence.verdicts if v.contrast.role in (PRIMARY, SECONDARY)]
    yield Section("Verdicts", items=first)
    more = [verdict.short for verdict in evidence.verdicts if verdict.contrast.role == EXPLORATORY]
    yield Section("Exploratory verdicts", items=more)


def _outcome(evidence: Evidence) -> Iterator[Section]:
    results, margin = evidence.results, evidence.results.design.get("margin", 1.0)
    table = arm_table(results, evidence.replicates)
    yield Section(
        "AP by arm",
        [f"AP of the last evaluation, times 100; mean ± standard deviation over seeds. {results.completeness}"],
        tables=[display_table(table), interval_table(table)],
        plots=[Plot("ap", outcomes.ap_by_arm(table, results.finished), f"AP by arm. {evidence.results.completeness}")],
    )
    yield Section("Published results", [f"For orientation only, {REFERENCE_NOTE}."], tables=[reference_table()])
    if evidence.verdicts:
        contrasts = contrast_table(evidence.verdicts)
        yield Section(
            "Differences",
            [
                "AP points, mean over same-seed differences; intervals are not corrected for their number, p of "
                f"secondary contrasts is Holm's. Margin of equivalence: {margin:g} points. A contrast that changes "
                "several settings names all of them."
            ],
            tables=[display_contrasts(contrasts)],
            plots=[Plot("differences", outcomes.differences(contrasts, margin), _caption("Differences", evidence))],
        )
    if not evidence.effects.empty:
        df = int(evidence.effects["df"].iloc[0])
        yield Section(
            "Effects and interactions",
            [
                "AP points, averaged over the other factors' levels, seeds as blocks; an interaction is half of what "
                f"one factor's effect gains by the other's second level. {df} degrees of freedom. "
                f"{evidence.results.completeness}"
            ],
            tables=[display_effects(evidence.effects)],
            plots=[Plot("effects", outcomes.effects(evidence.effects), _caption("Effects", evidence))],
        )


def _training(evidence: Evidence) -> Iterator[Section]:
    arms, records = list(evidence.results.design["arms"]), evidence.records
    groups = [
        ("losses", "Losses and AP over the run", curves.LOSSES),
        ("rates", "Learning rates", curves.RATES),
        ("clipping", "Clipping", curves.CLIPPING),
        ("entropy", "Attention entropy of the decoder (1: spread evenly)", curves.entropy_metrics(records)),
        ("matching", "Matching", curves.MATCHING),
    ]
    made = [(name, caption, curves.panels(records, metrics, arms)) for name, caption, metrics in groups]
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
        yield Section("What is wrong with runs", items=rules, tables=[shown])


def _detail(evidence: Evidence) -> Iterator[Section]:
    results = evidence.results
    if not evidence.classes.empty:
        label, classes = evidence.verdicts[0].contrast.label, evidence.classes
        shown = pd.DataFrame(
            {
                "class": classes["class"],
                "first side": [f"{100 * value:.1f}" for value in classes["arm"]],
                "second side": [f"{100 * value:.1f}" for value in classes["against"]],
                "difference": [points(value) for value in classes["difference"]],
                "interval over images": [
                    f"{points(row.low)} to {points(row.high)}" if row.low == row.low else "–"
                    for row in classes.itertuples()
                ],
            }
        )
        caption = _caption(f"{label}, by class", evidence)
        plot = Plot("classes", outcomes.class_differences(classes), caption)
        yield Section("Classes", [f"AP x 100 of each class: {label}."], tables=[shown], plots=[plot])
    yield Section("Detections", pictures=bool(evidence.scenes))
    settings = results.design.get("settings", {})
    if any(settings.values()):
        yield Section("What differs between arms", tables=[settings_table(settings)])
    yield Section("Runs", tables=[display_states(run_states(results, {}))])


def _method(evidence: Evidence) -> Section:
    count = len(evidence.replicates)
    images = (
        f"Intervals over images: paired bootstrap of {count} replicates with the same image weights for every arm, "
        "seeds kept as they are."
        if count
        else "There are no intervals over images."
    )
    return Section(
        "How this was computed",
        items=[
            "Intervals over seeds: 95 % t intervals of same-seed differences. Intervals over images say nothing of "
            "other seeds, and the other way round.",
            images,
            f"Better, worse and equivalent need at least {MIN_SEEDS} seeds; with fewer no sign-flip test reaches "
            "p < 0.05.",
            "Arms of one seed see the same order of images and start from the same weights where their models agree.",
        ],
    )


def _caption(text: str, evidence: Evidence) -> str:
    return f"{text}. {evidence.results.completeness}"
