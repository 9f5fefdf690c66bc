"""Outcomes of an ablation: frames in, plotly figures out. All of AP is shown times 100.

Two intervals stand side by side where both are known: over seeds (thick) and over validation images (thin); neither
contains the other's source of chance.
"""

import html
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from experiments.results.figures.curves import colour, styled

SEEDS, IMAGES = "95 % t interval over seeds", "95 % bootstrap interval over images"
DARK, LIGHT = "#0072B2", "#E69F00"
ROW = 44  # pixels


def ap_by_arm(table: pd.DataFrame, runs: pd.DataFrame) -> go.Figure:
    """AP of every arm: each seed as a dot, the mean with its intervals.

    table:  `tables.arm_table` with replicates
    runs:   one row a finished run: arm, seed, val/AP
    """
    arms = table["arm"].tolist()
    figure = _rows(arms)
    _intervals(figure, table, "AP", "AP_seeds", SEEDS, DARK, 7, 0.12)
    _intervals(figure, table, "AP", "AP_images", IMAGES, LIGHT, 3, -0.12)
    if "val/AP" in runs:
        known = runs.dropna(subset=["val/AP"])
        figure.add_scatter(
            x=(100 * known["val/AP"]).tolist(),
            y=[arms.index(arm) - 0.3 for arm in known["arm"]],
            name="one run",
            mode="markers",
            marker={"symbol": "circle-open", "size": 8, "color": [colour(arm, arms) for arm in known["arm"]]},
            customdata=known["seed"].tolist(),
            hovertemplate="seed %{customdata}: %{x:.2f}<extra></extra>",
        )
    figure.update_xaxes(title_text="AP x 100")
    return figure


def differences(table: pd.DataFrame, margin: float) -> go.Figure:
    """The difference of every contrast with both intervals, and the margin of equivalence as a grey stripe.

    table:   `tables.contrast_table`
    margin:  AP points
    """
    labels = [f"{row.contrast} ({row.role}, {row.n}/{row.planned} seeds)" for row in table.itertuples()]
    figure = _rows(labels)
    figure.add_vrect(x0=-margin, x1=margin, fillcolor="#999999", opacity=0.15, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    _intervals(figure, table, "difference", "seeds", SEEDS, DARK, 7, 0.12)
    _intervals(figure, table, "images_difference", "images", IMAGES, LIGHT, 3, -0.12)
    figure.update_xaxes(title_text="difference of AP x 100")
    return figure


def effects(table: pd.DataFrame) -> go.Figure:
    """Main effects and interactions of a factorial with their intervals over seeds.

    table:  `effects.factorial_effects`
    """
    labels = [
        f"{row.effect}: {row.level} against {row.baseline}" if row.kind == "main" else row.effect
        for row in table.itertuples()
    ]
    figure = _rows(labels)
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    shown = table.rename(columns={"low": "effect_low", "high": "effect_high"})
    _intervals(figure, shown, "estimate", "effect", SEEDS, DARK, 7, 0)
    figure.update_xaxes(title_text="effect on AP x 100")
    return figure


def class_differences(table: pd.DataFrame) -> go.Figure:
    """Difference of AP of every class between the two sides of a contrast, with intervals over images.

    table:  one row a class: class, difference, low, high (0..1), sorted as it is to be shown
    """
    figure = _rows(table["class"].tolist(), row=22 if len(table) > 20 else ROW)
    figure.add_vline(x=0, line={"color": "#666666", "width": 1})
    shown = table.rename(columns={"low": "d_low", "high": "d_high"})
    _intervals(figure, shown, "difference", "d", IMAGES, LIGHT, 3, 0)
    figure.update_xaxes(title_text="difference of AP x 100")
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
    figure: go.Figure, table: pd.DataFrame, value: str, prefix: str, name: str, tone: str, width: int, shift: float
) -> None:
    """Add the values with their intervals, which may be unknown; nothing where no interval and no value is known."""
    known = table.reset_index(drop=True).dropna(subset=[value])
    if known.empty:
        return
    centre, low, high = (100 * known[key] for key in (value, f"{prefix}_low", f"{prefix}_high"))
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
