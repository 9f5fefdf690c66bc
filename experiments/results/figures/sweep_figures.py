"""optuna.visualization's figures of a sweep, with AP shown times 100."""

import copy
import logging
import warnings
from functools import partial
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from experiments.results.reading.sweep_trials import SweepResults
from experiments.schema.metrics import in_points

MATRIX_SETTINGS = 4  # the most important ones, in figures that have a panel for every pair of settings
CAPTIONS = {
    "history": "Value of every trial in the order of their numbers, and the best so far.",
    "intermediate_values": "What the pruner saw: the value at every evaluation.",
    "pareto_front": "Values of every trial; those that no other beats in all objectives form the front.",
    "importances": "Share of each setting in the variance of the values (PED-ANOVA); rough with few finished trials.",
    "parallel_coordinate": "One line a finished trial through its settings.",
    "slice": "Value against each setting alone.",
    "contour": "Value over pairs of the most important settings.",
    "rank": "Rank of the value over pairs of the most important settings.",
    "edf": "Share of the finished trials up to each value.",
    "timeline": "When each trial ran, and how it ended.",
}


def figures(results: SweepResults) -> dict[str, go.Figure]:
    """name -> figure, in the order of CAPTIONS, of those that the trials so far allow.

    With several objectives, the figures of values are made for each, and named "history: val/AP" and so on.
    """
    study = display_copy(results)
    names = [f"{metric.removeprefix('val/')} x 100" if in_points(metric) else metric for metric in results.objectives]
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    made: dict[str, go.Figure] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")  # as `_of_values` heeds
        warnings.filterwarnings("ignore", "Some regimes for parameter")  # few trials: the caption tells
        if any(trial.intermediate_values for trial in study.trials):
            made["intermediate_values"] = visualization.plot_intermediate_values(study)
        if any(trial.datetime_start for trial in study.trials):
            made["timeline"] = visualization.plot_timeline(study)
        if len(finished) > 1:
            if 1 < len(names) < 4:
                made["pareto_front"] = visualization.plot_pareto_front(study, target_names=names)
            for i, (metric, name) in enumerate(zip(results.objectives, names, strict=True)):
                index = None if len(names) == 1 else i
                suffix = "" if len(names) == 1 else f": {metric}"
                for kind, figure in _of_values(study, index, name, _varying(finished)).items():
                    made[kind + suffix] = figure
    order = list(CAPTIONS)
    return {
        name: figure.update_layout(template="plotly_white", title=None, margin={"t": 30})
        for name, figure in sorted(made.items(), key=lambda item: order.index(item[0].partition(":")[0]))
    }


def display_copy(results: SweepResults) -> optuna.Study:
    """The study in memory, with every AP times 100."""
    logging.getLogger("optuna").setLevel(logging.WARNING)  # it tells of every study that it makes
    scales = [100.0 if in_points(metric) else 1.0 for metric in results.objectives]
    shown = optuna.create_study(directions=[StudyDirection[way.upper()] for way in results.objectives.values()])
    for trial in results.study.get_trials(deepcopy=False):
        scaled = copy.deepcopy(trial)
        if trial.values:
            scaled.values = [s * v for s, v in zip(scales, trial.values, strict=False)]
        scaled.intermediate_values = {k: scales[0] * v for k, v in trial.intermediate_values.items()}
        shown.add_trial(scaled)
    return shown


def _of_values(study: optuna.Study, index: int | None, name: str, settings: list[str]) -> dict[str, go.Figure]:
    """Figures of one objective; `index` is None where it is the only one."""
    target = None if index is None else partial(_value, index=index)
    given: dict[str, Any] = {"target_name": name, "target": target}
    made = {
        "history": visualization.plot_optimization_history(study, **given),
        "edf": visualization.plot_edf(study, **given),
    }
    if not settings:
        return made
    made["slice"] = visualization.plot_slice(study, params=settings, **given)
    made["parallel_coordinate"] = visualization.plot_parallel_coordinate(study, params=settings, **given)
    low = target
    if index is not None and study.directions[index] == StudyDirection.MAXIMIZE:
        low = partial(_value, index=index, sign=-1)
    importances = optuna.importance.get_param_importances(study, target=low)
    made["importances"] = visualization.plot_param_importances(study, target=low, target_name=name)
    first = [setting for setting in importances if setting in settings][:MATRIX_SETTINGS]
    if len(first) > 1:
        made["contour"] = visualization.plot_contour(study, params=first, **given).update_layout(height=900)
        made["rank"] = visualization.plot_rank(study, params=first, **given).update_layout(width=None, height=900)
    return made


def _varying(finished: list[FrozenTrial]) -> list[str]:
    """Settings with more than one value among the finished trials, by name."""
    values: dict[str, set[object]] = {}
    for trial in finished:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    return sorted(name for name, found in values.items() if len(found) > 1)


def _value(trial: FrozenTrial, index: int, sign: int = 1) -> float:
    return float(sign * trial.values[index])
