"""thresholds: not made yet."""

import streamlit as st

from dashboard import choices


def render() -> None:
    """The page."""
    st.title("Thresholds")
    choices.ablation()
