"""Thresholds, errors and calibration: `run_summary` in, plotly figures out.

Lines and bars are means over an arm's runs; bands and whiskers reach from the lowest to the highest run.
"""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.results.bootstrap import RECALL_THRESHOLDS
from experiments.results.detections.error_types import SPECIAL, TYPES
from experiments.results.detections.run_summary import Summaries, pooled_reliability
from experiments.results.figures.curves import PALETTE, colour, dash, styled, transparent

SIZES = {"val/AP": "all", "val/APS": "small", "val/APM": "medium", "val/APL": "large"}
UNIT = [-0.02, 1.02]  # of an axis of shares
PATTERNS = ("", "/", "x", ".")  # of bars: arms of one colour differ in it


def precision_recall(summaries: Summaries, arms: Sequence[str], threshold: float) -> go.Figure:
    """Precision over recall at IoU 0.5, and precision, recall and F1 over the threshold, which is marked.

    arms:  all of the design, which fixes their colours
    """
    titles = ["precision over recall", "precision", "recall", "F1"]
    figure = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.16)
    for arm, runs in summaries.items():
        curves = [run.precision for run in runs]
        _add(figure, RECALL_THRESHOLDS, curves, arm, arms, "recall %{x:.2f}: precision", 1, 1)
        for place, name in enumerate(("precision", "recall", "f1"), start=1):
            curves = [run.curve[name].to_numpy() for run in runs]
            x = runs[0].curve["threshold"].to_numpy()
            _add(figure, x, curves, arm, arms, f"threshold %{{x:.2f}}: {titles[place]}", *_place(place))
    figure.update_xaxes(range=UNIT, title_text="score threshold")
    figure.update_xaxes(title_text="recall", row=1, col=1)
    figure.update_yaxes(range=UNIT)
    for place in (1, 2, 3):
        row, column = _place(place)
        figure.add_vline(x=threshold, line={"color": "#8C8C8C", "width": 1, "dash": "dot"}, row=row, col=column)
    return styled(figure, 720, len(summaries))


def _place(place: int) -> tuple[int, int]:
    """Row and column, from 1 on, of a panel of two columns."""
    return place // 2 + 1, place % 2 + 1


def sizes(runs: pd.DataFrame, shown: Sequence[str], arms: Sequence[str]) -> go.Figure | None:
    """AP x 100 by size of the objects; None where no run has it.

    runs:  of finished runs: arm and val/AP, val/APS, val/APM, val/APL
    """
    known = {key: name for key, name in SIZES.items() if key in runs and runs[key].notna().any()}
    figure = go.Figure()
    for arm in shown:
        values = [100 * runs.loc[runs["arm"] == arm, key].dropna().to_numpy() for key in known]
        if any(len(x) for x in values):
            _bars(figure, list(known.values()), values, arm, arms, "AP")
    figure.update_yaxes(title_text="AP x 100", rangemode="tozero")
    return styled(figure, 380, len(shown)) if figure.data else None


def error_costs(summaries: Summaries, arms: Sequence[str]) -> go.Figure:
    """What each error type costs in AP50 x 100, those of Bolya et al. (2020) and their two special ones."""
    figure = make_subplots(1, 2, column_widths=[0.74, 0.26], horizontal_spacing=0.08)
    for arm, runs in summaries.items():
        for column, names in ((1, TYPES), (2, SPECIAL)):
            values = [np.array([100 * run.costs[name] for run in runs]) for name in names]
            _bars(figure, list(names), values, arm, arms, "dAP50", row=1, col=column)
    figure.update_traces(showlegend=False, col=2)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="dAP50 x 100", col=1)
    return styled(figure, 420, len(summaries))


def confusion_matrix(table: np.ndarray, classes: Sequence[str], is_share: bool) -> go.Figure:
    """Counts of `confusion.confusion`, or with `is_share` each row's shares; numbers are written where they fit."""
    rows = [html.escape(name) for name in (*classes, "background")]
    columns = [*rows[:-1], "not found"]
    total = table.sum(axis=1, keepdims=True)
    shown = np.divide(table, total, out=np.zeros(table.shape), where=total > 0) if is_share else table.astype(float)
    blank = np.full(shown.shape, None, dtype=object)
    blank[:-1] = shown[:-1]
    blank[-1, :-1] = shown[-1, :-1]  # nothing is neither an object nor a detection
    figure = go.Figure(
        go.Heatmap(
            z=blank.tolist(),
            x=columns,
            y=rows,
            customdata=table.tolist(),
            colorscale="Blues",
            zmin=0,
            texttemplate=("%{z:.2f}" if is_share else "%{z:d}") if len(rows) <= 21 else None,
            hovertemplate="object: %{y}<br>detected as: %{x}<br>%{customdata} times<extra></extra>",
            colorbar={"thickness": 12},
        )
    )
    figure.update_xaxes(title_text="detected as", side="top", type="category", showgrid=False)
    figure.update_yaxes(title_text="object", autorange="reversed", type="category", automargin=True, showgrid=False)
    return styled(figure, 220 + max(22 * len(rows), 200)).update_layout(margin={"t": 90, "b": 20})


def calibration(summaries: Summaries, arms: Sequence[str], threshold: float) -> go.Figure:
    """Share of hits over the score of detections, all runs of an arm together; the diagonal is perfect calibration."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": "#8C8C8C", "width": 1, "dash": "dot"}, name="perfect",
        hoverinfo="skip",
    )  # fmt: skip
    for arm, runs in summaries.items():
        frame = pooled_reliability(runs, threshold)
        frame = frame[frame["detections"] > 0]
        name = html.escape(arm)
        figure.add_scatter(
            x=frame["score"].tolist(),
            y=frame["precision"].tolist(),
            name=name,
            mode="lines+markers",
            line={"color": colour(arm, arms), "dash": dash(arm, arms)},
            customdata=frame[["low", "high", "detections"]].to_numpy().tolist(),
            hovertemplate=f"{name}<br>scores %{{customdata[0]:.2f}} to %{{customdata[1]:.2f}}: %{{customdata[2]:d}} "
            "detections<br>mean score %{x:.3f}, hits %{y:.1%}<extra></extra>",
        )
    figure.update_xaxes(range=UNIT, title_text="mean score")
    figure.update_yaxes(range=UNIT, title_text="share of hits (precision)")
    return styled(figure, 460, len(summaries) + 1)


def _add(
    figure: go.Figure, x: np.ndarray, runs: Sequence[np.ndarray], arm: str, arms: Sequence[str], word: str, row: int,
    column: int,
) -> None:  # fmt: skip
    """The mean of the runs' curves and, from two on, the band from the lowest to the highest, where any is known."""
    table = pd.DataFrame(runs)  # a row a run
    known = table.notna().any().to_numpy()
    table, x = table.loc[:, known], x[known]
    tone, name = colour(arm, arms), html.escape(arm)
    if len(table) > 1:
        band = {"mode": "lines", "line": {"width": 0, "color": tone}, "legendgroup": name, "showlegend": False,
                "hoverinfo": "skip", "x": x.tolist()}  # fmt: skip
        figure.add_trace(go.Scatter(y=table.max().tolist(), **band), row, column)
        filled = {"fill": "tonexty", "fillcolor": transparent(tone)}
        figure.add_trace(go.Scatter(y=table.min().tolist(), **filled, **band), row, column)
    label = f"{name} ({_number(len(table))})<br>{word}"
    line = go.Scatter(
        x=x.tolist(),
        y=table.mean().tolist(),
        name=name,
        legendgroup=name,
        showlegend=(row, column) == (1, 1),
        mode="lines",
        line={"color": tone, "width": 2, "dash": dash(arm, arms)},
        hovertemplate=f"{label} %{{y:.3f}}<extra></extra>",
    )
    figure.add_trace(line, row, column)


def _bars(
    figure: go.Figure, names: Sequence[str], values: Sequence[np.ndarray], arm: str, arms: Sequence[str], word: str,
    **place: int,
) -> None:  # fmt: skip
    """One bar a name: the mean of the runs' values with whiskers from the lowest to the highest."""
    mean = [float(x.mean()) if len(x) else None for x in values]
    whiskers: Mapping[str, object] | None = None
    if max(map(len, values)) > 1:
        high = [float(x.max() - x.mean()) if len(x) else 0 for x in values]
        low = [float(x.mean() - x.min()) if len(x) else 0 for x in values]
        whiskers = {"type": "data", "symmetric": False, "array": high, "arrayminus": low, "thickness": 1.2, "width": 3,
                    "color": "#8C8C8C"}  # fmt: skip
    name, cycle = html.escape(arm), list(arms).index(arm) // len(PALETTE)
    label = f"{name} ({_number(max(map(len, values)))})<br>%{{x}}: {word}"
    bar = go.Bar(
        x=list(names),
        y=mean,
        error_y=whiskers,
        name=name,
        legendgroup=name,
        marker={"color": colour(arm, arms), "pattern": {"shape": PATTERNS[cycle % len(PATTERNS)]}},
        hovertemplate=f"{label} %{{y:.2f}}<extra></extra>",
    )
    figure.add_trace(bar, **place)


def _number(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"
