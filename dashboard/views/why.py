"""Why an arm came out as it did: reasons in words, the diagnostics of training, boxes of queries, attention maps."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import choices, data, decoder, export, states
from experiments.results import conditions, signals
from experiments.results.evidence import Evidence
from experiments.results.figures import curves, why_figures
from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.histories import all_points, as_records
from experiments.results.signals import SECTIONS, Signal
from experiments.results.verdicts import Verdict
from experiments.schema.contrasts import EXPLORATORY

DOCS = Path(__file__).resolve().parents[2] / "docs/diagnostics.md"
REASONS, TRAINING, QUERIES, ATTENTION = "Reasons", "Training signals", "Boxes of queries", "Attention maps"
COLUMNS = 3  # of signals


def render() -> None:
    """The page."""
    st.title("Why")
    results = choices.ablation()
    parts = [REASONS, TRAINING, QUERIES, ATTENTION]
    part = st.segmented_control("Show", parts, default=REASONS, required=True, key="topic", bind=choices.BIND)
    if part == TRAINING:
        arms = choices.arms(results)
        states.live(results, lambda now: _training(now, arms))
    elif results.finished.empty:
        states.say("info", "No run of this ablation has finished yet. The page Ablation shows how far they are.")
    elif part == REASONS:
        _reasons(data.evidence(results))
    else:
        (decoder.query_boxes if part == QUERIES else decoder.attention_maps)(results)
        _documentation("What is stored")


def _reasons(evidence: Evidence) -> None:
    """What the verdicts say of their causes, and what is wrong with single runs."""
    st.caption("What explains or limits each difference. The differences themselves are on the page Ablation.")
    for verdict in evidence.verdicts:
        if verdict.contrast.role != EXPLORATORY:
            _verdict(verdict)
    further = [verdict for verdict in evidence.verdicts if verdict.contrast.role == EXPLORATORY]
    if further:
        with st.expander(f"{len(further)} exploratory contrasts"):
            for verdict in further:
                _verdict(verdict)
    st.subheader("Faults of single runs", anchor="runs")
    if evidence.conditions.empty:
        st.markdown("Nothing: every run was trained, evaluated and audited without a finding.")
        return
    found = conditions.summary(evidence.conditions)
    export.table(found.astype(str), "conditions", raw=evidence.conditions)
    for name in found["condition"].unique():
        st.caption(f"**{states.plain(name)}**: {states.plain(conditions.RULES[name])}.")


def _verdict(verdict: Verdict) -> None:
    st.markdown(f"**{states.plain(verdict.contrast.label)}: {states.plain(verdict.claim)}**")
    words = [f"- {states.plain(reason)}" for reason in verdict.reasons]
    st.markdown("\n".join(words) or "- Nothing that training logged explains or limits it.")


def _training(results: AblationResults, arms: Sequence[str]) -> None:
    """The signals of training, section by section as in the documentation, arms overlaid."""
    every, runs = list(results.design.arms), results.runs[results.runs["arm"].isin(arms)]
    logged = [str(key) for key in runs.columns[runs.notna().any()]]
    sections = {section: signals.present(section, logged) for section in SECTIONS}
    if not any(key.startswith("diagnostics/") for key in logged):
        states.say(
            "warning",
            "These runs have logged no diagnostics yet. They do at their first evaluation, unless train.diagnostics is "
            "turned off; a new training logs them:",
            f"python experiments/run.py ablation={results.design.name} fresh=true",
        )
        return
    st.html(why_figures.legend(arms, every))
    st.caption("Lines are means over seeds, bands reach from the lowest to the highest seed.")
    for section, found in sections.items():
        st.subheader(section, anchor=section.lower())
        if found:
            _panels(results, runs, section, found)
        else:
            st.caption("Not logged by these runs.")
        if section == "Detections":
            _layers(results, runs, logged)
        _documentation(section)


def _panels(results: AblationResults, runs: pd.DataFrame, section: str, found: Sequence[Signal]) -> None:
    """A figure a signal with its help mark, and one export of all."""
    every = list(results.design.arms)
    histories = data.histories(results, [one.key for one in found])
    records = as_records(histories, runs)
    for start in range(0, len(found), COLUMNS):
        for column, one in zip(st.columns(COLUMNS), found[start : start + COLUMNS], strict=False):
            with column:
                st.markdown(f"**{states.plain(one.title)}**", help=one.text)
                export.draw(why_figures.signal(records, one, every), one.key.rpartition("/")[2])
    titles = {one.key: one.title for one in found}
    together = curves.panels(records, titles, every)
    export.ways_out(together, section, curves.averaged(records, titles), partial(all_points, histories, runs))


def _layers(results: AblationResults, runs: pd.DataFrame, logged: Sequence[str]) -> None:
    histories = data.histories(results, [key for key in logged if key.startswith(why_figures.AP_PREFIX)])
    drawn = why_figures.layer_ap(as_records(histories, runs), list(results.design.arms))
    if drawn is not None:
        st.markdown(f"**{signals.LAYER_AP.title}**", help=signals.LAYER_AP.text)
        export.figure(drawn, "AP_by_layer", frame=partial(all_points, histories, runs))


def _documentation(section: str) -> None:
    """A section of docs/diagnostics.md."""
    with st.expander(f"docs/diagnostics.md: {section}", icon=":material/menu_book:"):
        text = DOCS.read_text(encoding="utf-8") if DOCS.is_file() else ""
        st.markdown(text.partition(f"\n## {section}\n")[2].partition("\n## ")[0] or "The file is not installed here.")
