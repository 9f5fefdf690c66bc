"""Frames in, plotly figures out."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Okabe and Ito's palette, which the colour-blind can tell apart
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
PANELS = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/AP": "AP x 100",
    "train/lr": "learning rate",
    "train/lr_backbone": "learning rate of the backbone",
    "train/grad_norm": "gradient norm before clipping",
}


def curves(records: dict[tuple[str, int], pd.DataFrame]) -> go.Figure:
    """Losses, AP, learning rates and gradient norm over optimiser steps; one line a run, one colour an arm.

    records:  (arm, seed) -> frame of `load_records`
    """
    figure = make_subplots(rows=2, cols=3, subplot_titles=list(PANELS.values()))
    arms = list(dict.fromkeys(arm for arm, _ in records))
    shown = set()
    for (arm, seed), frame in records.items():
        for i, metric in enumerate(PANELS):
            if metric not in frame:
                continue
            points = frame[["step", metric]].dropna()
            scale = 100 if metric == "val/AP" else 1
            figure.add_scatter(
                x=points["step"],
                y=points[metric] * scale,
                name=arm,
                legendgroup=arm,
                showlegend=arm not in shown,
                mode="lines+markers" if metric.startswith("val/") else "lines",
                line={"color": PALETTE[arms.index(arm) % len(PALETTE)], "width": 1.5},
                hovertemplate=f"{arm}, seed {seed}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
                row=i // 3 + 1,
                col=i % 3 + 1,
            )
            shown.add(arm)
    figure.update_yaxes(type="log", row=2, col=3)
    figure.update_layout(template="plotly_white", height=700, legend={"orientation": "h", "y": -0.1})
    return figure
