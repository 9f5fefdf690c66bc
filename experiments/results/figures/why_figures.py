"""Figures of why a run went as it did: AP by decoder layer, boxes of queries, attention over the image."""

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.results.detections.queries import SMALL, TALL, WIDE, in_pixels
from experiments.results.figures.curves import DASHES, Records, colour, panels, styled
from experiments.results.reading.attention import ImageAttention
from experiments.results.signals import LAYER_AP, Signal

SHAPES = {SMALL: "#009E73", WIDE: "#E69F00", TALL: "#56B4E9"}
COLUMNS = 5  # of queries' boxes
POINTS = 300  # images of a query at most: SVG draws no more in a moment
AP_PREFIX = LAYER_AP.key.removesuffix("<layer>")
PANEL = 250  # pixels
STRIPES = {  # of a line in the legend: start, end in pixels, whether drawn
    "solid": [(0, 38, True)],
    "dash": [(0, 9, True), (9, 14, False)],
    "dot": [(0, 3, True), (3, 6, False)],
    "dashdot": [(0, 9, True), (9, 13, False), (13, 16, True), (16, 20, False)],
}


def signal(records: Records, chosen: Signal, arms: Sequence[str]) -> go.Figure | None:
    """One diagnostic over optimiser steps, a line an arm; the page has the title and the legend. None where no run
    logged it.
    """
    figure = panels(records, {chosen.key: ""}, arms)
    if figure is None:
        return None
    if "update_ratio" in chosen.key:
        figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    if chosen.key == "train/wait_fraction" or "no_object" in chosen.key or "entropy" in chosen.key:
        figure.update_yaxes(range=[-0.03, 1.03])
    return figure.update_layout(showlegend=False, height=PANEL, margin={"l": 50, "r": 10, "t": 10, "b": 40})


def layer_ap(records: Records, arms: Sequence[str]) -> go.Figure | None:
    """AP x 100 of every decoder layer at the last evaluation, mean over an arm's seeds; None where it was not logged.

    arms:  all of the design, which fixes their colours
    """
    figure = go.Figure()
    for arm in arms:
        frames = [f for (name, _), f in records.items() if name == arm]
        runs = [
            {int(key.removeprefix(AP_PREFIX)): f[key].dropna().iloc[-1] for key in f.filter(like=AP_PREFIX).columns}
            for f in frames
        ]
        table = 100 * pd.DataFrame([run for run in runs if run])
        if table.empty:
            continue
        table = table.sort_index(axis=1)
        mean, low, high = table.mean(), table.min(), table.max()
        tone, name = colour(arm, arms), html.escape(arm)
        figure.add_scatter(
            x=[f"{layer}" for layer in table],
            y=mean.tolist(),
            error_y={"type": "data", "symmetric": False, "array": (high - mean).tolist(),
                     "arrayminus": (mean - low).tolist(), "color": tone} if len(table) > 1 else None,
            name=name,
            mode="lines+markers",
            line={"color": tone, "dash": DASHES[list(arms).index(arm) % len(DASHES)]},
            hovertemplate=f"{name} ({len(table)} {'seed' if len(table) == 1 else 'seeds'})<br>"
            "decoder layer %{x}: %{y:.2f}<extra></extra>",
        )  # fmt: skip
    if not figure.data:
        return None
    figure.update_xaxes(title_text="decoder layer", type="category")
    figure.update_yaxes(title_text="AP x 100", rangemode="tozero")
    return styled(figure, 380)


def query_centres(boxes: pd.DataFrame, queries: Sequence[int]) -> go.Figure:
    """One square a query, named with its mean score, and in it the centre of its box in every image.

    boxes:    of `queries.query_boxes`; of a query with more than POINTS images, every n-th is drawn
    queries:  which, in this order
    """
    rows = -(-len(queries) // COLUMNS)
    scores = boxes.groupby("query")["score"].mean()
    titles = [f"query {query} ({scores[query]:.2f})" for query in queries]
    figure = make_subplots(rows, COLUMNS, subplot_titles=titles, horizontal_spacing=0.02, vertical_spacing=0.35 / rows)
    step = -(-boxes["image_id"].nunique() // POINTS)
    for i, query in enumerate(queries):
        shown = boxes[boxes["query"] == query].iloc[::step]
        for shape, tone in SHAPES.items():
            points = shown[shown["shape"] == shape]
            figure.add_scatter(
                x=points["x"].tolist(),
                y=points["y"].tolist(),
                mode="markers",
                marker={"color": tone, "size": 4, "opacity": 0.7},
                name=shape,
                legendgroup=shape,
                showlegend=False,
                customdata=points[["image_id", "score"]].to_numpy().tolist(),
                hovertemplate="image %{customdata[0]}, score %{customdata[1]:.2f}<extra></extra>",
                row=i // COLUMNS + 1,
                col=i % COLUMNS + 1,
            )
    for shape, tone in SHAPES.items():  # whatever shapes there are, the legend tells all
        figure.add_scatter(x=[None], y=[None], mode="markers", marker={"color": tone, "size": 8}, name=shape,
                           legendgroup=shape, row=1, col=1)  # fmt: skip
    frame = {"showticklabels": False, "showgrid": False, "zeroline": False} | {
        "showline": True, "mirror": True, "linecolor": "#888888"}  # fmt: skip
    figure.update_xaxes(range=[0, 1], **frame)
    figure.update_yaxes(range=[1, 0], **frame)
    styled(figure, 110 + 200 * rows).update_layout(margin={"l": 10, "r": 10})
    return figure.update_annotations(yanchor="bottom", yshift=8)


def drawn_images(boxes: pd.DataFrame) -> tuple[int, int]:
    """Of how many images `query_centres` draws the boxes, and of how many there are."""
    images = boxes["image_id"].nunique()
    return -(-images // -(-images // POINTS)) if images else 0, images


def attention_map(
    kept: ImageAttention, detection: pd.DataFrame, size: tuple[int, int], url: str, label: str
) -> go.Figure:
    """Where the detection's query looks, over the image, with its box. A query without a map gives the image and the
    box alone.

    detection:  one row of `queries.query_boxes`
    size:       width and height of the image in pixels
    url:        the image as a data URL; "" where it cannot be read
    """
    width, height = size
    figure = go.Figure()
    if url:
        figure.add_layout_image(source=url, x=0, y=0, sizex=width, sizey=height, xref="x", yref="y",
                                sizing="stretch", layer="below")  # fmt: skip
    weights = kept.map_of(int(detection["query"].iloc[0]))
    if weights is not None and np.isfinite(weights).all():
        rows, columns = weights.shape
        high, wide = kept.extent[0] * height / rows, kept.extent[1] * width / columns  # pixels of a cell
        figure.add_heatmap(
            z=weights.tolist(),
            x=[(i + 0.5) * wide for i in range(columns)],
            y=[(i + 0.5) * high for i in range(rows)],
            colorscale="Viridis",
            opacity=0.6,
            zmin=0,
            colorbar={"title": "weight", "thickness": 12, "tickformat": ".2g"},
            hovertemplate="weight %{z:.3f}<extra></extra>",
        )
    ((x, y, w, h),) = in_pixels(detection, size).tolist()
    for line in ({"color": "#000000", "width": 5}, {"color": "#FFFFFF", "width": 2.5}):
        figure.add_shape(type="rect", x0=x, y0=y, x1=x + w, y1=y + h, line=line)
    figure.add_annotation(x=x, y=y, text=html.escape(label), showarrow=False, xanchor="left", yanchor="bottom",
                          font={"color": "#000000"}, bgcolor="#FFFFFF")  # fmt: skip
    styled(figure, 460)
    figure.update_xaxes(range=[0, width], visible=False, constrain="domain")
    figure.update_yaxes(range=[height, 0], visible=False, scaleanchor="x", constrain="domain")
    return figure.update_layout(margin={"l": 10, "r": 10, "t": 10, "b": 10})


def legend(shown: Sequence[str], arms: Sequence[str]) -> str:
    """HTML that names the arms beside their lines, for figures without a legend of their own."""
    entries = []
    for arm in shown:
        tone, dash = colour(arm, arms), STRIPES[DASHES[list(arms).index(arm) % len(DASHES)]]
        stripes = ",".join(f"{tone if drawn else 'transparent'} {start}px {end}px" for start, end, drawn in dash)
        line = f"display:inline-block;width:38px;height:3px;background:repeating-linear-gradient(90deg,{stripes})"
        entries.append(
            f'<span style="margin-right:24px;white-space:nowrap"><span style="{line};vertical-align:middle"></span> '
            f"{html.escape(arm)}</span>"
        )
    return f"<p>{''.join(entries)}</p>"
