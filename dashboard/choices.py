"""What a page shows is chosen here, and every choice is in the address: a link opens the same view.

A view's own choices are Streamlit's widgets with a key and `bind="query-params"`, for example
`st.slider("Score", 0.0, 1.0, 0.5, key="threshold", bind="query-params")`; a choice that equals its default stays out of
the address, and one that makes no sense is dropped. The ablation is chosen once for all pages, and always in it.
"""

from collections.abc import Sequence
from typing import Final

import streamlit as st

from dashboard import data, states
from experiments.results.reading.ablations import AblationResults

BIND: Final = "query-params"
ABLATION = "ablation"


def pick_ablation() -> None:
    """The choice in the side bar, drawn by app.py on every page; the newest where the address names none."""
    labels = data.ablations()["label"].tolist()
    if not labels:
        return
    if ABLATION not in st.session_state and ABLATION not in st.query_params:
        st.session_state[ABLATION] = st.query_params[ABLATION] = labels[0]
    help_text = "Newest first. The link in the address bar opens the ablation that is chosen here."
    st.sidebar.selectbox("Ablation", labels, index=None, key=ABLATION, bind=BIND, help=help_text)


def ablation() -> AblationResults:
    """What the store holds of the chosen ablation; where there is none the page says so and ends."""
    known = data.ablations()
    if known.empty:
        states.empty_store(data.store())
        st.stop()
    chosen = known[known["label"] == st.session_state.get(ABLATION)]
    if chosen.empty:
        states.say("warning", "The address names an ablation that this store does not have. Choose one at the left.")
        st.stop()
    return data.results(chosen["run_id"].iloc[0])


def arms(results: AblationResults, default: Sequence[str] | None = None, most: int | None = None) -> list[str]:
    """The arms to show, in the design's order; all where `default` is not given."""
    names = list(results.design.arms)
    given = list(default if default is not None else names)
    chosen = st.multiselect("Arms", names, default=given, key="arms", bind=BIND, max_selections=most)
    return [arm for arm in names if arm in chosen]


def seeds(results: AblationResults) -> list[int]:
    """The seeds to show; all of the design's where none was taken out."""
    known = sorted(results.design.seeds)
    return sorted(st.multiselect("Seeds", known, default=known, key="seeds", bind=BIND))
