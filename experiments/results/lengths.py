"""How long the arms of an ablation were trained, and in what they are equally long."""

import numpy as np
import pandas as pd

from experiments.results.reading.ablations import AblationResults
from experiments.schema import names
from experiments.schema.contrasts import listed


def arm_lengths(results: AblationResults) -> pd.DataFrame:
    """Length of the finished runs of every arm, one row an arm: steps, epochs, fraction (of the published schedule)."""
    rows = {}
    for arm in results.design.arms:
        done = results.finished[results.finished["arm"] == arm]
        epochs = done[names.EPOCH] if names.EPOCH in done else pd.Series(np.nan, index=done.index)
        full = [float(results.params.get(run, {}).get("schedule.full_epochs", "nan")) for run in done["run_id"]]
        steps = done[names.STEP].mean() if names.STEP in done else np.nan
        rows[arm] = {"steps": steps, "epochs": epochs.mean(), "fraction": (epochs / full).mean()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["steps", "epochs", "fraction"])


def comparison(lengths: pd.DataFrame) -> str:
    """Say in which units the arms are equally long: "equal steps (600) and epochs (4.8), unequal fraction ...".

    lengths:  one row an arm: steps, epochs, fraction (of the published schedule, 0..1), as run or planned
    """
    known = lengths.dropna()
    if known.empty:
        return "lengths unknown"
    shown = {
        "steps": [f"{v:.0f}" for v in known["steps"]],
        "epochs": [f"{v:.3g}" for v in known["epochs"]],
        "fraction of the schedule": [f"{100 * v:.3g} %" for v in known["fraction"]],
    }
    if len(known) == 1:
        steps, epochs, fraction = (texts[0] for texts in shown.values())
        return f"{steps} steps, {epochs} epochs, {fraction} of the schedule"
    equal = [f"{unit} ({texts[0]})" for unit, texts in shown.items() if len(set(texts)) == 1]
    places = {unit: (known[unit.split()[0]].argmin(), known[unit.split()[0]].argmax()) for unit in shown}
    ends = {unit: (shown[unit][low], shown[unit][high]) for unit, (low, high) in places.items()}
    unequal = [f"{unit} ({low} to {high})" for unit, (low, high) in ends.items() if low != high]
    parts = [f"{word} {listed(units)}" for word, units in (("equal", equal), ("unequal", unequal)) if units]
    return ", ".join(parts)
