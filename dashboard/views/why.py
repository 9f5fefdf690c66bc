"""Why an arm came out as it did: reasons in words, the diagnostics of training, boxes of queries, attention maps."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboard import choices, data, decoder, export, states
from experiments.results import conditions, signals, why_figures
from experiments.results.contrasts import EXPLORATORY
from experiments.results.evidence import Evidence
from experiments.results.runs import AblationResults
from experiments.results.signals import SECTIONS, Signal
from experiments.results.verdicts import Verdict

DOCS = Path(__file__).resolve().parents[2] / "docs/diagnostics.md"
REASONS, TRAINING, QUERIES, ATTENTION = "Reasons", "Training signals", "Boxes of queries", "Attention maps"
COLUMNS = 3  # of signals


def render() -> None:
    """The page."""
    st.title("Why")
    results = choices.ablation()
    if results.finished.empty:
        states.say("info", "No run of this ablation has finished yet. The page Ablation shows how far they are.")
        return
    parts = [REASONS, TRAINING, QUERIES, ATTENTION]
    part = st.segmented_control("Show", parts, default=REASONS, required=True, key="show", bind=choices.BIND)
    if part == REASONS:
        _reasons(data.evidence(results))
    elif part == TRAINING:
        _training(results)
    elif part == QUERIES:
        decoder.query_boxes(results)
        _documentation("What is stored")
    else:
        decoder.attention_maps(results)
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
    st.subheader("What is wrong with single runs", anchor="runs")
    if evidence.conditions.empty:
        st.markdown("Nothing: every run was trained, evaluated and audited without a finding.")
        return
    found = conditions.summary(evidence.conditions)
    export.table(found.astype(str), "conditions", raw=evidence.conditions)
    for name in found["condition"].unique():
        st.caption(f"**{states.plain(name)}**: {states.plain(conditions.RULES[name])}.")


def _verdict(verdict: Verdict) -> None:
    st.markdown(f"**{states.plain(verdict.contrast.label)}: {states.plain(verdict.word)}**")
    words = [f"- {states.plain(reason)}" for reason in verdict.reasons]
    st.markdown("\n".join(words) or "- Nothing that training logged explains or limits it.")


def _training(results: AblationResults) -> None:
    """The signals of training, section by section as in the documentation, arms overlaid."""
    every = list(results.design["arms"])
    chosen = choices.arms(results)
    records = {key: frame for key, frame in data.evidence(results).records.items() if key[0] in chosen}
    if not any(signals.present(section, records) for section in SECTIONS):
        states.say(
            "warning",
            "These runs logged no diagnostics. They do where train.diagnostics is not turned off:",
            f"python experiments/run.py ablation={results.design['name']} fresh=true",
        )
        return
    st.html(why_figures.legend(chosen, every))
    st.caption("Lines are means over seeds, bands reach from the lowest to the highest seed.")
    for section in SECTIONS:
        found = signals.present(section, records)
        st.subheader(section, anchor=section.lower())
        if not found:
            st.caption("Not logged by these runs.")
        for start in range(0, len(found), COLUMNS):
            for column, one in zip(st.columns(COLUMNS), found[start : start + COLUMNS], strict=False):
                with column:
                    _signal(one, records, every)
        if section == "Detections":
            _layers(records, every)
        _documentation(section)


def _signal(one: Signal, records: dict[tuple[str, int], pd.DataFrame], arms: list[str]) -> None:
    st.markdown(f"**{states.plain(one.title)}**", help=one.text)
    having = {place: frame[["step", one.key]] for place, frame in records.items() if one.key in frame}
    values = pd.concat(having, names=["arm", "seed"]).reset_index(["arm", "seed"]).dropna(subset=[one.key])
    export.figure(why_figures.signal(records, one, arms), one.key.rpartition("/")[2], frame=values)


def _layers(records: dict[tuple[str, int], pd.DataFrame], arms: list[str]) -> None:
    drawn = why_figures.layer_ap(records, arms)
    if drawn is not None:
        st.markdown(f"**{signals.LAYER_AP.title}**", help=signals.LAYER_AP.text)
        export.figure(drawn, "AP_by_layer")


def _documentation(section: str) -> None:
    """A section of docs/diagnostics.md."""
    with st.expander(f"docs/diagnostics.md: {section}", icon=":material/menu_book:"):
        text = DOCS.read_text(encoding="utf-8") if DOCS.is_file() else ""
        st.markdown(text.partition(f"\n## {section}\n")[2].partition("\n## ")[0] or "The file is not installed here.")
