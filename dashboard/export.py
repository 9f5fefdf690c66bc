"""Tables and figures with their ways out: CSV, Markdown and LaTeX; HTML, SVG and PNG."""

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from experiments.results import glossary
from experiments.results.report_latex import table as latex
from experiments.results.report_markdown import table as markdown


def table(shown: pd.DataFrame, name: str, raw: pd.DataFrame | None = None) -> None:
    """A table of texts, with a help mark on every column that the glossary knows, and its export.

    name:  of the files, unique on the page
    raw:   the figures behind the texts, which the CSV holds in full; the texts themselves where it is not given
    """
    columns = {str(c): st.column_config.Column(help=glossary.explain(str(c))) for c in shown.columns}
    st.dataframe(shown, hide_index=True, column_config=columns, width="stretch", height="content")
    with st.popover("Export", icon=":material/download:", key=f"export-{name}"):
        texts, full = shown.astype(str), shown if raw is None else raw
        _download("CSV", f"{name}.csv", lambda: full.to_csv(index=False))
        _download("Markdown", f"{name}.md", lambda: markdown(texts) + "\n")
        _download("LaTeX", f"{name}.tex", lambda: latex(texts) + "\n")


def figure(drawn: go.Figure, name: str, caption: str = "", frame: pd.DataFrame | None = None) -> None:
    """A figure, its caption, and its export: SVG by the camera above it; HTML, whose camera makes PNG; CSV.

    frame:  the data behind it, in full, also where its lines are averaged for drawing
    """
    camera = {"format": "svg", "filename": name}
    st.plotly_chart(drawn, key=f"figure-{name}", config={"displaylogo": False, "toImageButtonOptions": camera})
    if caption:
        st.caption(caption)
    with st.popover("Export", icon=":material/download:", key=f"export-{name}"):
        st.caption("SVG: the camera above the figure. PNG: the camera in the HTML file.")
        png = {"displaylogo": False, "toImageButtonOptions": {"format": "png", "scale": 2, "filename": name}}
        _download("HTML", f"{name}.html", lambda: drawn.to_html(include_plotlyjs=True, config=png))
        if frame is not None:
            _download("CSV", f"{name}.csv", lambda: frame.to_csv(index=False))


def _download(label: str, file_name: str, make) -> None:
    """A button whose file is made when it is pressed."""
    st.download_button(label, make, file_name, key=f"download-{file_name}", on_click="ignore", width="stretch")
