"""Compare runs: any runs of any experiment, the settings in which they differ, and their metrics."""

import pandas as pd
import streamlit as st

from dashboard import choices, data, export, states
from experiments.results.comparison import differing_settings, group_of, matching, metric_frame, run_frame
from experiments.results.reading.reader import StoredRun
from experiments.schema.metrics import in_points

FIRST = ["val/AP", "val/AP50", "val/AP75", "val/loss"]
LONG = 60  # characters of a setting that are shown; an export holds all


def render() -> None:
    """The page."""
    st.title("Compare runs")
    runs, known = data.all_runs()
    if not runs:
        states.empty_store(data.store())
        return
    groups = list(dict.fromkeys(group_of(run, known) for run in runs))
    of, words = st.columns(2)
    chosen = of.multiselect(
        "Runs of", groups, default=groups[:1], key="of", bind=choices.BIND,
        help="Ablations, sweeps and other experiments of the store, the one with the newest run first.",
    )  # fmt: skip
    text = words.text_input(
        "With the words", key="words", bind=choices.BIND, placeholder="for example: seed=0 optim.lr=0.0003",
        help="Runs stay in whose name, state or settings every word is found; a setting reads key=value.",
    )  # fmt: skip
    found = matching([run for run in runs if group_of(run, known) in chosen], text)
    if not found:
        states.say("info", "No run fits. Choose more, or take words out.")
        return
    _compare(found, known)


def _compare(runs: list[StoredRun], known: dict[str, str]) -> None:
    logged = sorted({key for run in runs for key in run.metrics})
    metrics = st.multiselect(
        "Metrics", logged, default=[key for key in FIRST if key in logged], key="metrics", bind=choices.BIND,
        help="The value that each run logged last.",
    )  # fmt: skip
    head, settings, values = run_frame(runs, known), differing_settings(runs), metric_frame(runs, metrics)
    raw = pd.concat([head, values, settings], axis=1)
    times_100 = {key: 100 for key in metrics if in_points(key)}
    shown = pd.concat(
        [
            head[["run", "of", "state"]],
            values.mul(pd.Series(times_100).reindex(metrics, fill_value=1)).round(3),
            settings.map(lambda value: value if len(value) <= LONG else f"{value[:LONG]}…"),
        ],
        axis=1,
    )
    same = len({key for run in runs for key in run.params}) - settings.shape[1]
    caption = (
        f"{len(runs)} runs, newest first. AP and AR times 100. Of their settings {settings.shape[1]} differ and are "
        f"shown; {same} are the same in all of them."
    )
    export.table(shown, "runs", caption, raw)
