"""Training curves: records in, plotly figures out. One colour an arm, a band from the lowest to the highest seed."""

import html
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's palette, which the colour-blind can tell apart, and dashes that let coinciding lines be seen
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")
POINTS = 200  # of a line at most: longer ones are averaged over equal stretches of steps

LOSSES = {"train/loss": "training loss", "val/loss": "validation loss", "val/AP": "AP x 100"}
RATES = {"train/lr": "learning rate", "train/lr_backbone": "learning rate of the backbone"}
CLIPPING = {"train/clip_fraction": "share of clipped steps so far", "train/grad_norm": "gradient norm before clipping"}
MATCHING = {
    "diagnostics/matching_instability": "queries an image that changed their object",
    "diagnostics/query_use": "share of queries matched at least once",
    "diagnostics/duplicates": "share of repeated detections",
}
SHARES = ("train/clip_fraction", "diagnostics/query_use", "diagnostics/duplicates")

Records = Mapping[tuple[str, int], pd.DataFrame]  # (arm, seed) -> frame of `runs.load_records`


def panels(records: Records, metrics: Mapping[str, str], arms: Sequence[str]) -> go.Figure | None:
    """One panel for each metric that was logged, over optimiser steps; None where there is none.

    metrics:  key -> title
    arms:     all of the design, which fixes their colours
    """
    present = [key for key in metrics if any(key in frame for frame in records.values())]
    if not present:
        return None
    columns = min(3, len(present))
    rows = -(-len(present) // columns)
    titles = [html.escape(metrics[key]) for key in present]
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.07)
    shown: set[str] = set()
    for i, key in enumerate(present):
        row, column = i // columns + 1, i % columns + 1
        for arm in arms:
            for trace in _traces(seed_band(records, arm, key), arm, arms, markers=not key.startswith("train/")):
                trace.showlegend = bool(trace.showlegend) and arm not in shown
                figure.add_trace(trace, row, column)
            if any(key in frame for (name, _), frame in records.items() if name == arm):
                shown.add(arm)
        figure.update_xaxes(title_text="optimiser step", row=row, col=column)
        if key in RATES:
            figure.update_yaxes(type="log", dtick="D2", exponentformat="e", row=row, col=column)
        if key == "train/grad_norm":
            figure.update_yaxes(type="log", row=row, col=column)
        if key in SHARES:
            figure.update_yaxes(range=[-0.03, 1.03], row=row, col=column)
    return styled(figure, 110 + 310 * rows)


def seed_band(records: Records, arm: str, key: str) -> pd.DataFrame:
    """Mean, lowest and highest value at each step over the arm's seeds that have one there, AP times 100.

    Columns: step, mean, low, high, seeds. Long lines are averaged over equal stretches before seeds are compared.
    """
    columns = {}
    for (name, seed), frame in records.items():
        if name == arm and key in frame:
            points = frame[["step", key]].dropna()
            columns[seed] = points.set_index("step")[key] * (100 if key == "val/AP" else 1)
    together = pd.DataFrame(columns).sort_index()
    if len(together) > POINTS:
        stretch = pd.Series(range(len(together)), index=together.index) * POINTS // len(together)
        steps = together.index.to_series().groupby(stretch).last()
        together = together.groupby(stretch).mean().set_index(pd.Index(steps, name="step"))
    band = pd.DataFrame({"mean": together.mean(axis=1), "low": together.min(axis=1), "high": together.max(axis=1)})
    return band.rename_axis("step").reset_index().assign(seeds=len(columns))


def entropy_metrics(records: Records) -> dict[str, str]:
    """The attention entropies that were logged, with their titles, by layer."""
    prefix = "diagnostics/attention_entropy_"
    layers = {key.removeprefix(prefix) for frame in records.values() for key in frame if key.startswith(prefix)}
    return {f"{prefix}{layer}": f"decoder layer {layer}" for layer in sorted(layers, key=lambda x: (len(x), x))}


def colour(arm: str, arms: Sequence[str]) -> str:
    """The arm's colour, the same in all figures of an ablation."""
    return PALETTE[list(arms).index(arm) % len(PALETTE)]


def styled(figure: go.Figure, height: int) -> go.Figure:
    """The look that all figures share."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 90},
        legend={"orientation": "h", "y": -58 / (height - 130), "yanchor": "top"},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_annotations(font_size=13)
    return figure


def _traces(band: pd.DataFrame, arm: str, arms: Sequence[str], markers: bool) -> list[go.Scatter]:
    """A line for the mean and, from two seeds on, a band around it."""
    if band.empty:
        return []
    tone, name, seeds = colour(arm, arms), html.escape(arm), int(band["seeds"].iloc[0])
    common = {"legendgroup": name, "hoverinfo": "skip", "line": {"width": 0, "color": tone}, "mode": "lines"}
    line = go.Scatter(
        x=band["step"].tolist(),
        y=band["mean"].tolist(),
        name=name,
        legendgroup=name,
        showlegend=True,
        mode="lines+markers" if markers else "lines",
        line={"color": tone, "width": 2, "dash": DASHES[list(arms).index(arm) % len(DASHES)]},
        marker={"size": 5},
        hovertemplate=f"{name} ({seeds} {'seed' if seeds == 1 else 'seeds'})<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
    )
    if seeds < 2:
        return [line]
    top = go.Scatter(x=band["step"].tolist(), y=band["high"].tolist(), showlegend=False, **common)
    bottom = go.Scatter(x=band["step"].tolist(), y=band["low"].tolist(), showlegend=False, fill="tonexty",
                        fillcolor=_transparent(tone), **common)  # fmt: skip
    return [top, bottom, line]


def _transparent(tone: str) -> str:
    red, green, blue = (int(tone[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
