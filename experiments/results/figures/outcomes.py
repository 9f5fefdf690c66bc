"""Outcomes of an ablation: frames in, plotly figures out, in the shown units of the metric.

Two intervals stand side by side where both are known: over seeds (thick) and over validation images (thin); neither
contains the other's source of chance.
"""

import html
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from experiments.results.figures.curves import colour, styled
from experiments.schema.metrics import AP, Metric

SEEDS, IMAGES = "95 % t interval over seeds", "95 % interval over images"
STYLES = {SEEDS: ("#0072B2", 7, 0.12), IMAGES: ("#E69F00", 3, -0.12)}  # colour, width, and shift off the row's middle
ROW = 44  # pixels


def by_arm(table: pd.DataFrame, runs: pd.DataFrame, metric: Metric, column: str) -> go.Figure:
    """One metric of every arm: each seed as a dot, the mean with its intervals.

    table:   `tables.arm_table` with samples of the images; their interval is about the AP corrected for its bias
    runs:    one row a finished run: arm, seed and the metric
    column:  the metric's name in the table
    """
    arms = table["arm"].tolist()
    figure = _rows(arms)
    _intervals(figure, table, column, f"{column}_seeds", metric.scale, SEEDS)
    _intervals(figure, table, f"{column}_images", f"{column}_images", metric.scale, IMAGES)
    if metric.column in runs:
        known = runs.dropna(subset=[metric.column])
        figure.add_scatter(
            x=(metric.scale * known[metric.column]).tolist(),
            y=[arms.index(arm) - 0.3 for arm in known["arm"]],
            name="one run",
            mode="markers",
            marker={"symbol": "circle-open", "size": 8, "color": [colour(arm, arms) for arm in known["arm"]]},
            customdata=known["seed"].tolist(),
            hovertemplate="seed %{customdata}: %{x:.2f}<extra></extra>",
        )
    figure.update_xaxes(title_text=metric.heading)
    return figure


def differences(table: pd.DataFrame, metric: Metric, margin: float | None) -> go.Figure:
    """The difference of every contrast in one metric with both intervals, and the margin as a grey stripe.

    table:   the rows of `tables.contrast_table` that are of this metric
    margin:  of equivalence in the shown unit; None if there is none
    """
    labels = [f"{row.contrast} ({row.role}, {row.n}/{row.planned} seeds)" for row in table.itertuples()]
    figure = _rows(labels)
    if margin is not None:
        figure.add_vrect(x0=-margin, x1=margin, fillcolor="#999999", opacity=0.15, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    _intervals(figure, table, "difference", "seeds", metric.scale, SEEDS)
    _intervals(figure, table, "images_difference", "images", metric.scale, IMAGES)
    figure.update_xaxes(title_text=f"difference of {metric.heading}")
    return figure


def effects(table: pd.DataFrame, metric: Metric) -> go.Figure:
    """Main effects and interactions of a factorial on one metric, with their intervals over seeds.

    table:  `effects.factorial_effects`
    """
    labels = [
        f"{row.effect}: {row.level} against {row.baseline}" if row.kind == "main" else str(row.effect)
        for row in table.itertuples()
    ]
    figure = _rows(labels)
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    shown = table.rename(columns={"low": "effect_low", "high": "effect_high"})
    _intervals(figure, shown, "estimate", "effect", metric.scale, SEEDS, shift=0)
    figure.update_xaxes(title_text=f"effect on {metric.heading}")
    return figure


def class_differences(table: pd.DataFrame, metric: Metric = AP) -> go.Figure:
    """Difference of AP of every class between the two sides of a contrast, with intervals over images.

    metric: AP, or AP50, APS, ..., which the table splits by class

    table:  one row a class: class, difference, low, high (0..1), sorted as it is to be shown
    """
    figure = _rows([str(name) for name in table["class"]], row=22 if len(table) > 20 else ROW)
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    shown = table.rename(columns={"low": "d_low", "high": "d_high"})
    _intervals(figure, shown, "difference", "d", metric.scale, IMAGES, shift=0)
    figure.update_xaxes(title_text=f"difference of {metric.heading}")
    return figure


def _rows(labels: Sequence[str], row: int = ROW) -> go.Figure:
    """An empty figure with one labelled line a row, the first on top."""
    figure = styled(go.Figure(), 150 + row * max(len(labels), 1))
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[html.escape(label) for label in labels],
        range=[len(labels) - 0.4, -0.6],
        automargin=True,
        zeroline=False,
    )
    return figure


def _intervals(
    figure: go.Figure, table: pd.DataFrame, value: str, prefix: str, scale: float, name: str, shift: float | None = None
) -> None:
    """Add the values with their intervals over seeds or images, which may be unknown; nothing if no value is known."""
    tone, width, beside = STYLES[name]
    shift = beside if shift is None else shift
    known = table.reset_index(drop=True).dropna(subset=[value])
    if known.empty:
        return
    centre, low, high = (scale * known[key] for key in (value, f"{prefix}_low", f"{prefix}_high"))
    figure.add_scatter(
        x=centre.tolist(),
        y=[position + shift for position in known.index],
        name=name,
        mode="markers",
        marker={"color": tone, "size": 9, "symbol": "diamond" if width > 4 else "circle"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (high - centre).fillna(0).tolist(),
            "arrayminus": (centre - low).fillna(0).tolist(),
            "color": tone,
            "thickness": width / 2,
            "width": 6,
        },
        customdata=[f"{a:.2f} to {b:.2f}" if a == a else "unknown" for a, b in zip(low, high, strict=True)],
        hovertemplate=f"{name}<br>%{{x:.2f}}, interval %{{customdata}}<extra></extra>",
    )
