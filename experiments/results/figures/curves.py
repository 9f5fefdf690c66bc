"""Training curves: records in, plotly figures out. One colour an arm on every figure of an ablation."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.schema.metrics import PRECISION, in_points

# Okabe and Ito's palette, which the colour-blind can tell apart, with grey for its black, which a dark page would hide
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")  # let coinciding lines be seen, and tell arms of one colour apart
POINTS = 200  # of a line at most: longer ones are averaged over equal stretches of steps

AXES = {
    "step": "optimiser step",
    "epoch": "epoch",
    "samples": "training images seen",
    "seconds": "time of training (seconds)",
}

LOSSES = {"train/loss": "training loss", "val/loss": "validation loss", "val/AP": "AP x 100"}
LOSS_PARTS = {
    f"{split}/loss_{key}": f"{part}, {name}"
    for split, name in (("train", "training"), ("val", "validation"))
    for key, part in (("ce", "class loss"), ("bbox", "box L1 loss"), ("giou", "box GIoU loss"))
}
RATES = {"train/lr": "learning rate", "train/lr_backbone": "learning rate of the backbone"}
CLIPPING = {"train/clip_fraction": "share of clipped steps so far", "train/grad_norm": "gradient norm before clipping"}
AP_KINDS = {f"val/{key}": f"{key} x 100" for key in PRECISION}
MATCHING = {
    "diagnostics/matching_instability": "queries an image that changed their object",
    "diagnostics/query_use": "share of queries matched at least once",
    "diagnostics/duplicates": "share of repeated detections",
}
ENTROPY = "diagnostics/attention_entropy_"  # of a decoder layer, whose number follows
SHARES = ("train/clip_fraction", "diagnostics/query_use", "diagnostics/duplicates")

Records = Mapping[tuple[str, int], pd.DataFrame]  # (arm, seed) -> frame of `ablations.load_records`


@dataclass(frozen=True)
class Look:
    """How curves are drawn."""

    over: str = "step"  # the horizontal axis: a key of AXES; of a band over time, the mean over its seeds
    each_seed: bool = False  # a line a seed instead of their mean in a band from the lowest to the highest
    smoothing: float = 0.0  # of what is logged at every step: weight of the past in an exponential moving average
    log_x: bool = False
    log_y: bool = False


def panels(
    records: Records, metrics: Mapping[str, str], arms: Sequence[str], look: Look | None = None
) -> go.Figure | None:
    """One panel for each metric that was logged, over optimiser steps unless `look` says otherwise; None where there
    is none.

    metrics:  key -> title
    arms:     all of the design, which fixes their colours
    """
    look = look or Look()
    present = [key for key in metrics if any(key in frame for frame in records.values())]
    if not present:
        return None
    columns = min(3, len(present))
    rows = -(-len(present) // columns)
    titles = [html.escape(metrics[key]) for key in present]
    height = 90 + 310 * rows
    spacing = {"horizontal_spacing": 0.07, "vertical_spacing": 115 / height}
    figure = make_subplots(rows, columns, subplot_titles=titles, **spacing)
    shown: set[str] = set()
    for i, key in enumerate(present):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for arm in arms:
            for trace in arm_traces(records, arm, key, arms, look):
                trace.showlegend = bool(trace.showlegend) and arm not in shown
                shown |= {arm} if trace.showlegend else set()
                figure.add_trace(trace, **place)
        figure.update_xaxes(title_text=AXES[look.over], type="log" if look.log_x else None, **place)
        _vertical_axis(figure, key, look, place)
    return styled(figure, height, len(shown))


def averaged(records: Records, metrics: Mapping[str, str]) -> str:
    """What the reader of a figure must know where its lines are drawn from averages; "" where every point is drawn."""
    most = max((len(frame[key].dropna()) for frame in records.values() for key in metrics if key in frame), default=0)
    if most <= POINTS:
        return ""
    return (
        f"Lines of more than {POINTS} points (here up to {most}) are drawn as {POINTS} means over equal stretches; an "
        "export holds every point."
    )


def seed_band(records: Records, arm: str, key: str, over: str = "step", smoothing: float = 0.0) -> pd.DataFrame:
    """Mean, lowest and highest value at each step over the arm's seeds that have one there, AP times 100.

    Columns: step, x (the axis `over`), mean, low, high, seeds. Long lines are averaged over equal stretches before
    seeds are compared; values that are not finite are left out.
    """
    together, x = _shortened(*_by_seed(records, arm, key, over, smoothing))
    band = {"x": x, "mean": together.mean(axis=1), "low": together.min(axis=1), "high": together.max(axis=1)}
    frame = pd.DataFrame(band, index=together.index).rename_axis("step").reset_index()
    return frame.assign(seeds=together.shape[1])


def arm_traces(records: Records, arm: str, key: str, arms: Sequence[str], look: Look) -> list[go.Scatter]:
    """The lines of one arm: the mean over its seeds in a band, or each seed; smoothed ones before their raw line.

    The few points of the evaluations are marked, and never smoothed.
    """
    markers = not key.startswith("train/")

    def lines(smoothing: float) -> list[go.Scatter]:
        if look.each_seed:
            return _each(*_shortened(*_by_seed(records, arm, key, look.over, smoothing)), arm, arms, markers)
        return _banded(seed_band(records, arm, key, look.over, smoothing), arm, arms, markers)

    raw = lines(0.0)
    if markers or not look.smoothing:
        return raw
    return [*(_faint(line) for line in raw if line.line.width), *lines(look.smoothing)]


def entropy_metrics(records: Records) -> dict[str, str]:
    """The attention entropies that were logged, with their titles, by layer."""
    keys = {str(key) for frame in records.values() for key in frame}
    layers = {key.removeprefix(ENTROPY) for key in keys if key.startswith(ENTROPY)}
    return {f"{ENTROPY}{layer}": f"decoder layer {layer}" for layer in sorted(layers, key=lambda x: (len(x), x))}


def colour(arm: str, arms: Sequence[str]) -> str:
    """The arm's colour, the same in all figures of an ablation."""
    return PALETTE[list(arms).index(arm) % len(PALETTE)]


def dash(arm: str, arms: Sequence[str]) -> str:
    """The arm's dash: arms of one colour differ in it."""
    position = list(arms).index(arm)
    return DASHES[(position + position // len(PALETTE)) % len(DASHES)]


def styled(figure: go.Figure, height: int, entries: int = 4) -> go.Figure:
    """The look that all figures share: the plot in `height` pixels, and below it a legend of `entries`, two a row."""
    rows = max(1, -(-entries // 2))
    figure.update_layout(
        template="plotly_white",
        height=height + 21 * rows,
        margin={"l": 60, "r": 20, "t": 40, "b": 60 + 21 * rows},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_annotations(font_size=13)
    return figure


def _vertical_axis(figure: go.Figure, key: str, look: Look, place: Mapping[str, int]) -> None:
    if key in RATES:
        figure.update_yaxes(type="log", dtick="D2", exponentformat="e", **place)
    elif key == "train/grad_norm" or look.log_y:
        figure.update_yaxes(type="log", **place)
    elif key in SHARES:
        figure.update_yaxes(range=[-0.03, 1.03], **place)


def _by_seed(records: Records, arm: str, key: str, over: str, smoothing: float = 0.0) -> tuple[pd.DataFrame, pd.Series]:
    """Finite values by step (rows) and seed (columns), and where each step lies on the axis `over`."""
    columns, places = {}, {}
    for (name, seed), frame in records.items():
        if name == arm and key in frame:
            with np.errstate(over="ignore"):  # what becomes infinite is left out as well
                scaled = frame[key].to_numpy(float) * (100 if in_points(key) else 1)
            finite, steps = np.isfinite(scaled), pd.Index(frame["step"], name="step")
            values = pd.Series(scaled[finite], index=steps[finite])
            columns[seed] = values.ewm(alpha=1 - smoothing).mean() if smoothing else values
            if over != "step" and over in frame:
                places[seed] = pd.Series(frame[over].interpolate().to_numpy(), index=steps)[finite]
    together = pd.DataFrame(columns).sort_index()
    if not places:
        return together, pd.Series(together.index, index=together.index, dtype=float)
    return together, pd.DataFrame(places, index=together.index).mean(axis=1)


def _shortened(together: pd.DataFrame, x: pd.Series) -> tuple[pd.DataFrame, pd.Series]:
    """At most POINTS rows, each the mean over a stretch, at the stretch's last step."""
    if len(together) <= POINTS:
        return together, x
    stretch = np.arange(len(together)) * POINTS // len(together)
    last = np.append(np.flatnonzero(np.diff(stretch)), len(together) - 1)
    means = together.groupby(stretch).mean().set_index(together.index[last])
    return means, x.iloc[last]


def _each(together: pd.DataFrame, x: pd.Series, arm: str, arms: Sequence[str], markers: bool) -> list[go.Scatter]:
    """A line a seed; the first one stands for the arm in the legend."""
    lines = []
    for seed in together:
        known = together[seed].dropna()
        lines.append(_line(x[known.index], known, f"seed {seed}", arm, arms, markers, width=1.3))
        lines[-1].showlegend = len(lines) == 1
    return lines


def _banded(band: pd.DataFrame, arm: str, arms: Sequence[str], markers: bool) -> list[go.Scatter]:
    """A line for the mean and, from two seeds on, a band around it."""
    if band.empty:
        return []
    seeds, at = int(band["seeds"].iloc[0]), band.set_index("step")
    line = _line(at["x"], at["mean"], f"{seeds} {'seed' if seeds == 1 else 'seeds'}", arm, arms, markers, width=2)
    if seeds < 2:
        return [line]
    common = {"legendgroup": line.legendgroup, "hoverinfo": "skip", "showlegend": False, "mode": "lines",
              "x": at["x"].to_numpy(), "line": {"width": 0, "color": line.line.color}}  # fmt: skip
    top = go.Scatter(y=at["high"].to_numpy(), **common)
    bottom = go.Scatter(y=at["low"].to_numpy(), fill="tonexty", fillcolor=transparent(line.line.color), **common)
    return [top, bottom, line]


def _line(
    x: pd.Series, y: pd.Series, label: str, arm: str, arms: Sequence[str], markers: bool, width: float
) -> go.Scatter:
    tone, name = colour(arm, arms), html.escape(arm)
    return go.Scatter(
        x=x.to_numpy(),  # of a list plotly checks every element
        y=y.to_numpy(),
        name=name,
        legendgroup=name,
        showlegend=True,
        mode="lines+markers" if markers else "lines",
        line={"color": tone, "width": width, "dash": dash(arm, arms)},
        marker={"size": 5},
        customdata=y.index.to_numpy(),
        hovertemplate=f"{name} ({label})<br>step %{{customdata}}: %{{y:.4g}}<extra></extra>",
    )


def _faint(line: go.Scatter) -> go.Scatter:
    """The raw line behind a smoothed one."""
    return line.update(opacity=0.3, line_width=1, line_dash="solid", hoverinfo="skip", hovertemplate=None,
                       showlegend=False)  # fmt: skip


def transparent(tone: str) -> str:
    """The colour of a band around a line."""
    red, green, blue = (int(tone[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
