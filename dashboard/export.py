"""Tables and figures with their ways out: CSV, Markdown and LaTeX; HTML, SVG and PNG."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.states import plain
from experiments.results.report import glossary
from experiments.results.report.latex import table as latex
from experiments.results.report.markdown import table as markdown

GREY = "color: #8c8c8c"  # readable in light and in dark
LOGO = {"displaylogo": False}


def table(
    shown: pd.DataFrame, name: str, caption: str = "", raw: pd.DataFrame | None = None, aside: Sequence[int] = ()
) -> None:
    """A table of texts, with a help mark on every column that the glossary knows, its caption and its export.

    name:   of the files, unique on the page
    raw:    the figures behind the texts, which the CSV holds in full; the texts themselves where it is not given
    aside:  positions of rows in grey, which are no results of the ablation
    """
    columns: Any = {str(column): _column(str(column), values) for column, values in shown.items()}
    drawn: Any = (
        shown.style.apply(lambda row: [GREY if row.name in aside else ""] * len(row), axis=1) if aside else shown
    )
    st.dataframe(drawn, hide_index=True, column_config=columns, height="content")
    texts, full = shown.astype(str), shown if raw is None else raw
    files = {
        "CSV": (f"{name}.csv", lambda: full.to_csv(index=False)),
        "Markdown": (f"{name}.md", lambda: markdown(texts) + "\n"),
        "LaTeX": (f"{name}.tex", lambda: latex(texts) + "\n"),
    }
    _below(name, caption, files, {str(column): str(column) for column in shown.columns})


def figure(
    drawn: go.Figure,
    name: str,
    caption: str = "",
    frame: pd.DataFrame | Callable[[], pd.DataFrame] | None = None,
    metrics: Mapping[str, str] | None = None,
) -> None:
    """A figure, its caption, and its export: SVG by the camera above it; HTML, whose camera makes PNG; CSV.

    name:     of the files, unique on the page
    frame:    the data behind it, or what makes it: in full, also where lines are averaged for drawing
    metrics:  what it shows, key -> title, to be explained beside it
    """
    draw(drawn, name)
    ways_out(drawn, name, caption, frame, metrics)


def draw(drawn: go.Figure, name: str) -> None:
    """A figure alone, for one of several that share their exports; the camera above it makes SVG."""
    drawn.update_layout(uirevision=name)  # a refresh keeps the zoom
    svg = LOGO | {"toImageButtonOptions": {"format": "svg", "filename": name}}
    st.plotly_chart(drawn, key=f"figure-{name}", config=svg)


def ways_out(
    drawn: go.Figure,
    name: str,
    caption: str = "",
    frame: pd.DataFrame | Callable[[], pd.DataFrame] | None = None,
    metrics: Mapping[str, str] | None = None,
) -> None:
    """What stands below a figure, as `figure` has it."""
    png = LOGO | {"toImageButtonOptions": {"format": "png", "scale": 2, "filename": name}}
    files = {"HTML": (f"{name}.html", lambda: drawn.to_html(include_plotlyjs=True, config=png))}
    if frame is not None:
        files["CSV"] = (f"{name}-data.csv", lambda: (frame() if callable(frame) else frame).to_csv(index=False))
    _below(name, caption, files, metrics or {}, "SVG: the camera above the figure. PNG: the camera in the HTML file.")


def _column(name: str, values: pd.Series) -> object:
    """Streamlit's configuration of a column: with its help mark, and numbers to three digits."""
    words = glossary.explain(name)
    if pd.api.types.is_float_dtype(values):
        return st.column_config.NumberColumn(help=words, format="%.3f")
    return st.column_config.Column(help=words)


def _below(
    name: str,
    caption: str,
    files: Mapping[str, tuple[str, Callable[[], str]]],
    metrics: Mapping[str, str],
    hint: str = "",
) -> None:
    """The caption at the left; at the right what the metrics mean, and the downloads, made when they are asked for."""
    left, middle, right = st.columns([8, 1.6, 1.6])
    left.caption(plain(caption))
    words = [(title, glossary.explain(key)) for key, title in metrics.items()]
    if any(text for _, text in words):
        with middle.popover("Meaning", icon=":material/help:", key=f"meaning-{name}", type="tertiary", width="stretch"):
            st.markdown("\n".join(f"- **{plain(title)}**: {plain(text)}" for title, text in words if text))
    with right.popover("Export", icon=":material/download:", key=f"export-{name}", type="tertiary", width="stretch"):
        if hint:
            st.caption(hint)
        for label, (file_name, make) in files.items():
            key = f"download-{name}-{label}"
            st.download_button(label, make, file_name, key=key, on_click="ignore", width="stretch")
