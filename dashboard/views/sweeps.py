"""Sweeps: what was searched, how the trials came out, and whether the ranks of short runs carry to longer ones."""

import pandas as pd
import streamlit as st

from dashboard import choices, data, export, states
from experiments.results.report.sections import Section

REFRESH = 15  # seconds, while a sweep is running


def render() -> None:
    """The page."""
    st.title("Sweeps")
    known = data.sweeps()
    if known.empty:
        states.say("info", f"No sweep has been run yet in {data.store().address}. This one searches peak lr and "
                   "clip norm of two recipes:", "python experiments/sweep.py sweep=lr_clip workers=2")  # fmt: skip
        return
    labels = (known["name"] + " " + known["run_id"].str[:8]).tolist()
    label = st.selectbox("Sweep", labels, key="sweep", bind=choices.BIND, help="Newest first.")
    chosen = known.iloc[labels.index(label)]
    st.fragment(_told, run_every=REFRESH if chosen["state"] == "running" else None)(chosen)


def _told(chosen: pd.Series) -> None:
    with states.told():  # a fragment keeps its faults to itself
        _sweep(chosen)


def _sweep(chosen: pd.Series) -> None:
    """Everything that is known of one sweep, as its report says it."""
    found = data.sweep(chosen["run_id"], chosen["storage"])
    kind = "info" if found.is_checked else "warning"
    states.say(kind, f"What its ranks are good for: {found.label}. State of the sweep: {chosen['state']}.")
    with st.expander(f"All {len(found.trials)} trials"):
        export.table(found.trials, "trials")
    for section in found.sections:
        _section(section)


def _section(section: Section) -> None:
    st.subheader(states.plain(section.heading[0].upper() + section.heading[1:]), anchor=False)
    for paragraph in section.paragraphs:
        st.markdown(states.plain(paragraph))
    st.markdown("\n".join(f"- {states.plain(item)}" for item in section.items))
    for i, table in enumerate(section.tables):
        export.table(table.astype(str), f"{section.heading}_{i}")
    for plot in section.plots:
        export.figure(plot.figure, plot.name, plot.caption)
