"""Ablation: the question, the answer with its uncertainty, and how far every run is."""

from typing import Literal

import pandas as pd
import streamlit as st

from dashboard import choices, data, export, states
from dashboard.states import plain
from experiments.results import conditions
from experiments.results.evidence import Evidence
from experiments.results.figures import outcomes
from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.run_states import EXPLAINED, display_states, spoken, time_left
from experiments.results.report.ablation_report import render as report
from experiments.results.report.sections import of_metric
from experiments.results.report.tables import (
    arm_table,
    column,
    contrast_table,
    display_contrasts,
    display_effects,
    display_overview,
    settings_table,
    with_differences,
)
from experiments.results.verdicts import BETTER, EQUIVALENT, ONE_SEED, PROVISIONALLY, WORSE, Verdict
from experiments.schema.contrasts import EXPLORATORY, listed

PARTS = ["By arm", "Differences", "Effects and interactions", "Faults", "Settings", "Runs"]
Colour = Literal["green", "red", "blue", "orange", "gray"]
COLOURS: dict[str, Colour] = {BETTER: "green", WORSE: "red", EQUIVALENT: "blue", ONE_SEED: "orange"}
COLOURS |= dict.fromkeys(PROVISIONALLY.values(), "orange")


def render() -> None:
    """The page."""
    results = choices.ablation()
    st.title(plain(results.design.name))
    st.markdown(f"#### {plain(results.design.question)}")
    states.live(results, _draw)


def _draw(results: AblationResults) -> None:
    _design(results)
    st.subheader(plain(f"{results.design.metric.label} by arm"))
    overview = st.empty()
    overview.dataframe(_overview(results)[0], hide_index=True)  # at once; what takes seconds comes below
    answer = st.container()
    tabs = dict(zip(PARTS, st.tabs(PARTS, key="part", bind=choices.BIND), strict=True))
    part = next(name for name, tab in tabs.items() if tab.open)  # the others are drawn when they are opened
    with tabs[part]:
        if part == "Runs":
            _runs(results)
        elif part == "Settings":
            _settings(results)
    with answer:
        if results.finished.empty:
            states.say("info", "No run has finished yet: there is nothing to compare.")
            return
        evidence = data.evidence(results)
        _answer(evidence)
    with overview.container():
        _table(results, evidence)
    with tabs[part]:
        if part == "By arm":
            _by_arm(evidence)
        elif part == "Differences":
            _differences(evidence)
        elif part == "Effects and interactions":
            _effects(evidence)
        elif part == "Faults":
            _conditions(evidence)


def _design(results: AblationResults) -> None:
    design = results.design
    seeds = ", ".join(map(str, design.seeds))
    metrics = listed([metric.label for metric in design.metrics])
    st.caption(
        plain(
            f"Design: {design.design}, {len(design.arms)} arms x {len(design.seeds)} seeds ({seeds}), judged by "
            f"{metrics}. Horizon of every run: {design.horizon}. Baseline: {design.baseline}. {results.completeness}"
        )
    )


def _answer(evidence: Evidence) -> None:
    """The verdicts, and the report."""
    for note in evidence.notes:
        states.say("warning", note)
    st.subheader("Verdicts")
    st.caption(f"Arms are compared at {plain(evidence.length)}.")
    first = [verdict for verdict in evidence.verdicts if verdict.contrast.role != EXPLORATORY]
    more = [verdict for verdict in evidence.verdicts if verdict.contrast.role == EXPLORATORY]
    for verdict in first:
        with st.container(border=True):
            _verdict(verdict)
    if more:
        with st.expander(f"{len(more)} exploratory contrasts, not corrected for their number"):
            for verdict in more:
                _verdict(verdict)
    st.download_button(
        "Report as one HTML page", lambda: report(evidence)["report.html"],
        f"{evidence.results.design.name}-report.html", mime="text/html", on_click="ignore",
        icon=":material/description:", help="Tables, figures, verdicts and detections in one self-contained file.",
    )  # fmt: skip


def _verdict(verdict: Verdict) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(verdict.claim, color=COLOURS.get(verdict.word, "gray"))
        st.markdown(f"**{plain(verdict.contrast.role)}: {plain(verdict.contrast.described)}**")
    reasons = "".join(f"\n- {plain(reason)}" for reason in verdict.reasons)
    st.markdown(plain("; ".join(verdict.evidence())) + "\n" + reasons)


def _table(results: AblationResults, evidence: Evidence) -> None:
    shown, raw = _overview(results, evidence)
    caption = (
        "Mean ± standard deviation over seeds, AP times 100; intervals and differences are those of "
        f"{results.design.metric.label}; differences stand with their number of seeds. "
        f"{results.completeness} Grey rows are published results of another setting, for orientation only."
    )
    export.table(shown, "by-arm", caption, raw, aside=range(len(raw), len(shown)))


def _overview(results: AblationResults, evidence: Evidence | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of the arms as texts, and its figures."""
    raw = with_differences(arm_table(results, evidence.images if evidence else None), results)
    return display_overview(raw, results.design), raw


def _by_arm(evidence: Evidence) -> None:
    results = evidence.results
    table = arm_table(results, evidence.images)
    for metric in results.design.metrics:
        drawn = outcomes.by_arm(table, results.finished, metric, column(metric))
        export.figure(drawn, f"outcome-{column(metric)}", results.completeness, table, {metric.key: metric.label})


def _differences(evidence: Evidence) -> None:
    contrasts, done = contrast_table(evidence.verdicts), evidence.results.completeness
    if contrasts.empty:
        states.say("info", "This design compares no two arms.")
        return
    design = evidence.results.design
    for metric in design.metrics:
        rows = of_metric(contrasts, metric)
        drawn = outcomes.differences(rows, metric, design.margin_of(metric))
        export.figure(drawn, f"differences-{column(metric)}", done, rows)
    caption = (
        "Differences of means over seeds, AP and AR in points; p of secondary contrasts, and of several primary "
        "metrics, is Holm's."
    )
    export.table(display_contrasts(evidence.verdicts), "contrasts", caption, contrasts)


def _effects(evidence: Evidence) -> None:
    if not evidence.effects:
        states.say("info", "Effects need a factorial design with a finished run in every arm.")
        return
    done = evidence.results.completeness
    for metric in evidence.results.design.metrics:
        if metric.key not in evidence.effects:
            continue
        found = evidence.effects[metric.key]
        export.figure(outcomes.effects(found, metric), f"effects-{column(metric)}", done, found)
        caption = (
            f"Effects on {metric.label}, AP and AR in points, averaged over the other factors' levels; an interaction "
            "is half of what one factor's effect gains by the other's second level, and is left out for a factor of "
            "more than two levels."
        )
        export.table(display_effects(found, metric), f"effects-table-{column(metric)}", caption, found)


def _conditions(evidence: Evidence) -> None:
    if evidence.conditions.empty:
        states.say("info", "Nothing was found: no run diverged, collapsed, or has figures that cannot stand together.")
        return
    shown = conditions.summary(evidence.conditions).astype(str)
    export.table(shown, "conditions", raw=evidence.conditions)
    for name in shown["condition"].unique():
        st.caption(f"{plain(name)}: {plain(conditions.RULES[name])}.")


def _settings(results: AblationResults) -> None:
    settings = results.design.settings
    if not any(settings.values()):
        states.say("info", "The design does not say in which settings its arms differ.")
        return
    turned = settings_table(settings).set_index("setting").T.rename_axis("arm").reset_index()
    export.table(turned, "settings", "Settings in which arms differ; all others are the same in every arm.")


def _runs(results: AblationResults) -> None:
    found = data.states(results)
    counts = found["state"].value_counts()
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    left = time_left(found)
    st.progress(
        float(found["done"].fillna(0).mean()), plain(said + (f"; about {spoken(left)} left" if left == left else ""))
    )
    explained = [f"{state}: {EXPLAINED[state]}." for state in counts.index if state in EXPLAINED]
    export.table(display_states(found, results.design.metric), "runs", " ".join(explained), found)
