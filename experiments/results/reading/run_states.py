"""How far every run of an ablation is: planned, running, silent, finished, failed, diverged or stopped."""

import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.reader import open_reader
from experiments.schema import names
from experiments.schema.metrics import Metric
from experiments.schema.store import Store

SILENT_AFTER = 600  # seconds without a record: system metrics come every 10, and an evaluation may take minutes
SIGNS = (names.STEP, "system/cpu_utilization_percentage")  # what a living run logs
EXPLAINED = {
    "planned": "has not begun",
    "running": "is being trained",
    "silent": "marked as running, but nothing came from it for ten minutes: its process may have died. The same "
    "command goes on where it stood",
    "finished": "came to its end",
    "failed": "ended with an error; the same command tries it again",
    "diverged": "ended because its loss was no longer a finite number",
    "stopped": "was interrupted; the same command goes on where it stood",
}


def last_signs(store: Store, results: AblationResults) -> dict[str, float]:
    """run_id -> when a run that is marked as running last logged anything, in seconds since 1970."""
    run_ids = results.runs.loc[results.runs["state"] == "running", "run_id"].tolist()
    reader = open_reader(store)
    if reader is None or not run_ids:
        return {}
    latest = [reader.history(run_ids, metric).groupby("run_id", observed=True)["time"].max() for metric in SIGNS]
    newest = pd.concat(latest).groupby(level=0, observed=True).max() / 1000
    return {str(run_id): float(seconds) for run_id, seconds in newest.items()}


def run_states(results: AblationResults, signs: Mapping[str, float], now: float | None = None) -> pd.DataFrame:
    """One row a planned run, in the design's order.

    Columns: arm, seed, state (a key of EXPLAINED, or what the run says itself), done (share of its steps, NaN where it
    is not known), step, epoch, left (seconds of training, NaN unless running), silence (seconds, NaN unless running),
    the design's first metric by its label (in stored units, of the last evaluation), minutes (trained), error.

    signs:  of `last_signs`
    now:    seconds since 1970
    """
    now = now or time.time()
    known = {(run["arm"], run["seed"]): run for run in results.runs.to_dict("records")}
    rows = []
    for arm in results.design.arms:
        for seed in results.design.seeds:
            run = known.get((arm, seed), {"run_id": "", "state": "planned"})
            progress = _progress(run, now - signs.get(run["run_id"], now), results.design.metric)
            rows.append({"arm": arm, "seed": seed} | progress)
    return pd.DataFrame(rows)


def time_left(states: pd.DataFrame) -> float:
    """Seconds until all planned runs are done, if as many train at once as now, and as fast; NaN where none does."""
    at_work = states[(states["state"] == "running") & (states["done"] > 0)]
    if at_work.empty:
        return float("nan")
    duration = (60 * states["minutes"] / states["done"])[states["done"] > 0].mean()
    waiting = states["state"].isin(["planned", "stopped"]).sum()
    return (at_work["left"].sum() + waiting * duration) / len(at_work)


def _progress(run: Mapping[Any, Any], silence: float, metric: Metric) -> dict[str, object]:
    state, error = run["state"], str(run.get("error") or "")
    step, of, seconds = (run.get(key, float("nan")) for key in (names.STEP, names.NUM_STEPS, names.SECONDS))
    running = state == "running"
    if running and silence > SILENT_AFTER:
        state = "silent"
    if state == "failed" and error.startswith("NonFiniteLoss"):
        state = "diverged"
    done = 1.0 if state == "finished" else 0.0 if state == "planned" else step / of
    return {
        "state": state,
        "done": done,
        "step": step,
        "epoch": run.get(names.EPOCH, float("nan")),
        "left": seconds * (of - step) / step if state == "running" and step else float("nan"),
        "silence": silence if running else float("nan"),
        metric.label: run.get(metric.column, float("nan")),
        "minutes": seconds / 60,
        "error": error,
    }


def display_states(states: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The states as people read them.

    metric:  the design's first
    """
    return pd.DataFrame(
        {
            "arm": states["arm"],
            "seed": states["seed"].astype(str),
            "state": states["state"],
            "done": [_shown(100 * value, " %") for value in states["done"]],
            "time left": [spoken(value) for value in states["left"]],
            "steps": [_shown(value) for value in states["step"]],
            "epochs": [_shown(value, digits=1) for value in states["epoch"]],
            metric.label: [_shown(metric.scale * value, digits=metric.digits) for value in states[metric.label]],
            "minutes": [_shown(value, digits=1) for value in states["minutes"]],
            "error": [error.split("\n")[0][:200] for error in states["error"]],
        }
    )


def spoken(seconds: float) -> str:
    """A duration in words: "12 min", "3 h 20 min"; a dash where it is not known."""
    if pd.isna(seconds):
        return "–"
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} days"


def _shown(value: float, unit: str = "", digits: int = 0) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}{unit}"
