"""plan=true: runs of an ablation, their time, and the differences that they could resolve, before anything is spent."""

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from scipy import stats

from detr.config import RunConfig
from detr.config_io import to_dict
from detr.data.batch import batches
from detr.data.transforms import normalize
from detr.evaluation import validation_loader
from detr.setup import Progress, Setup, prepare, train_loader
from detr.step import train_step
from experiments.definition.arms import NOT_IDENTITY, Ablation, Run, data_fingerprint
from experiments.results.effects import PAIRED_FROM
from experiments.results.lengths import comparison
from experiments.results.reading.ablations import earlier_runs
from experiments.results.report.tables import settings_table
from experiments.results.sequential import LEVEL, prior_sd, variance_factor
from experiments.results.verdicts import MANY_SEEDS
from experiments.runs.display import print_table
from experiments.schema.contrasts import EXPLORATORY, Contrast, contrasts
from experiments.schema.metrics import PREFIXES, Metric
from experiments.schema.store import Store

ASSUMED_SD = 0.01  # of AP and AR over seeds, if no earlier runs tell
MEASURED_SECONDS, MEASURED_TIMES = 5.0, 5  # per distinct cost: whichever is reached first


@dataclass(frozen=True)
class Cost:
    """Measured on this machine with a worker's share of its cores."""

    num_steps: int
    epochs: float
    seconds_per_step: float
    seconds_per_evaluation: float

    def seconds(self, evaluations: int) -> float:
        """Of a whole run."""
        return self.num_steps * self.seconds_per_step + evaluations * self.seconds_per_evaluation


def show_plan(ablation: Ablation, todo: list[Run], slots: int, store: Store, console: Console) -> None:
    """Print arms, what differs, runs to do, estimated time, and the difference that the seeds can resolve.

    Opens the data, drawing the built-in set where it is not there yet, and trains a few micro-batches that are thrown
    away. Nothing is stored.
    """
    design = ablation.design
    console.print(f"design: {design.design}; blocks: every arm is run with a seed before the next seed is begun")
    for arm in ablation.arms:
        console.print(f"  {arm.name}{'  (baseline)' if arm.name == design.baseline else ''}", markup=False)
    if any(design.settings.values()):
        print_table(
            console,
            settings_table(design.settings).set_index("setting").T.reset_index(names="arm"),
            "settings that differ",
        )
    costs = measure(ablation, slots, console)
    console.print(f"arms are compared at {comparison(lengths(ablation, costs))}")
    evaluations = ablation.arms[0].config.train.evaluations
    total = sum(costs[run.arm].seconds(evaluations) for run in todo)
    steps = sorted({f"{cost.seconds_per_step:.2g} s a step" for cost in costs.values()})
    console.print(
        f"{len(todo)} runs to do: about {_duration(total / min(slots, max(len(todo), 1)))} with {slots} at the same "
        f"time, {_duration(total)} of work ({', '.join(steps)}, measured here)"
    )
    for line in resolution(ablation, earlier_runs(store, design.metrics)):
        console.print(line, markup=False)


def measure(ablation: Ablation, slots: int, console: Console) -> dict[str, Cost]:
    """arm -> its cost; arms that differ in nothing but optimiser, schedule and start are measured once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // slots))
    seconds: dict[str, tuple[float, float]] = {}
    costs = {}
    try:
        for arm in ablation.arms:
            config = measurable(arm.config)
            setup, key = prepare(config), cost_key(config)
            if key not in seconds:
                with console.status(f"measuring {arm.name}"):
                    seconds[key] = step_seconds(setup), evaluation_seconds(setup)
            train = arm.config.train
            epochs = setup.num_steps * train.batch_size * train.accumulate / len(setup.train_set)
            costs[arm.name] = Cost(setup.num_steps, epochs, *seconds[key])
    finally:
        torch.set_num_threads(threads)
    return costs


def measurable(config: RunConfig) -> RunConfig:
    """The same computation from random weights and not compiled: a measurement need not fetch weights, nor wait for a
    compiler.
    """
    model, train = replace(config.model, pretrained=False, init_from=None), replace(config.train, compile=False)
    return replace(config, model=model, train=train)


def cost_key(config: RunConfig) -> str:
    """Equal for configurations that cost the same a step."""
    values = to_dict(config)
    return json.dumps([values[key] for key in ("model", "loss", "data", "train", "evaluation")], sort_keys=True)


def step_seconds(setup: Setup) -> float:
    """Seconds of one optimiser step, from real steps on single micro-batches, loading included."""
    accumulate = setup.config.train.accumulate
    stream, progress = batches(train_loader(setup, 0)), Progress()
    took, started = [], time.perf_counter()
    for batch in islice(stream, 1 + MEASURED_TIMES):
        train_step(setup, progress, [batch])
        took.append(time.perf_counter() - started)
        if sum(took) > MEASURED_SECONDS and len(took) > 1:
            break
        started = time.perf_counter()
    return accumulate * float(np.median(took[1:] or took))  # the first also starts the loaders


@torch.no_grad()
def evaluation_seconds(setup: Setup) -> float:
    """Seconds of one validation, from the predictions of its first batches; COCOeval's own time is not in it."""
    loader = validation_loader(setup.val_set, setup.config.data, setup.config.evaluation)
    setup.model.eval()
    done, started = 0, time.perf_counter()
    for batch in batches(loader):
        moved = batch.to(setup.device)
        setup.criterion(setup.model(normalize(moved.images, moved.padding_mask), moved.padding_mask), moved.targets)
        done += 1
        if time.perf_counter() - started > MEASURED_SECONDS / 2:
            break
    return (time.perf_counter() - started) * len(loader) / done


def lengths(ablation: Ablation, costs: dict[str, Cost]) -> pd.DataFrame:
    """One row an arm: steps, epochs, fraction of the published schedule."""
    rows = [
        (costs[arm.name].num_steps, costs[arm.name].epochs, costs[arm.name].epochs / arm.config.schedule.full_epochs)
        for arm in ablation.arms
    ]
    return pd.DataFrame(rows, columns=["steps", "epochs", "fraction"])


def resolution(ablation: Ablation, earlier: pd.DataFrame) -> Iterable[str]:
    """The differences that the seeds can resolve: one line a metric and a contrast that is not exploratory."""
    design, n = ablation.design, len(ablation.design.seeds)
    found = [contrast for contrast in contrasts(design) if contrast.role != EXPLORATORY]
    for i, metric in enumerate(design.metrics if found else ()):
        sd, source = seed_sd(ablation, earlier, metric)
        shown = f"{metric.scale * sd:.2g}{' points' * (metric.unit == 'points')}" if sd == sd else "unknown"
        yield f"SD of {metric.label} over seeds: {shown}, {source}"
        if n == 1 and i == 0:
            yield "1 seed tells of these trained models only: an interval over seeds takes 2"
        for contrast in found if sd == sd else ():
            resolved = _resolved(contrast, metric, sd, n, design.margin_of(metric))
            yield f"{contrast.role}: {contrast.described}: {resolved}"


def _resolved(contrast: Contrast, metric: Metric, sd: float, num_seeds: int, margin: float | None) -> str:
    """ "interval of ±1.2 points with 3 seeds; 5 seeds would settle a difference of 1, the margin"."""
    unit = "points" if metric.unit == "points" else metric.label
    parts = []
    if num_seeds > 1:
        parts.append(f"interval of ±{metric.shown(half_width(contrast, sd, num_seeds))} {unit} with {num_seeds} seeds")
    if margin is None:
        return "; ".join([*parts, "no margin"])
    needed = seeds_needed(contrast, sd, margin / metric.scale)
    seeds = f"{needed} seeds" if needed else f"more than {MANY_SEEDS} seeds"
    return "; ".join([*parts, f"{seeds} would settle a difference of {margin:g}, the margin"])


def half_width(contrast: Contrast, sd: float, num_seeds: int) -> float:
    """Expected half-width of the 95 % interval of a contrast (`effects.contrast`), if runs vary independently with this
    SD.
    """
    weights = contrast.weights.values()
    df = num_seeds - 1 if num_seeds >= PAIRED_FROM else len(weights) * (num_seeds - 1)
    return float(stats.t.ppf(1 - LEVEL / 2, df)) * sd * math.sqrt(variance_factor(weights, num_seeds))


def seeds_needed(contrast: Contrast, sd: float, difference: float) -> int | None:
    """Smallest number of seeds whose interval is expected to be no wider than the difference on either side; None
    beyond MANY_SEEDS.
    """
    enough = (n for n in range(2, MANY_SEEDS + 1) if half_width(contrast, sd, n) <= difference)
    return next(enough, None)


def seed_sd(ablation: Ablation, earlier: pd.DataFrame, metric: Metric) -> tuple[float, str]:
    """SD of the metric over seeds in stored units, and its source: earlier runs on the same data with the same model,
    or an assumption; NaN if there is neither.

    The model counts as the same whatever the settings that this ablation varies.
    """
    run = ablation.arms[0].config
    free = {key for row in ablation.design.settings.values() for key in row}
    same = earlier
    for key, value in {f"model.{name}": value for name, value in to_dict(run)["model"].items()}.items():
        if key not in free and key in same:
            same = same[same[key] == str(value)]
    same = same[same["fingerprint"] == data_fingerprint(run)].dropna(subset=[metric.column])
    sds, dfs = arm_sds(same, metric)
    if sds:
        horizons = same["schedule.horizon"].unique()
        source = f"from {len(same)} earlier runs on this data with this model (horizon {', '.join(horizons)})"
        return prior_sd(sds, dfs).sd, source
    lacking = "no earlier runs with this data and model have several seeds"
    return (ASSUMED_SD, f"assumed, as {lacking}") if metric.unit == "points" else (float("nan"), f"as {lacking}")


def arm_sds(runs: pd.DataFrame, metric: Metric) -> tuple[list[float], list[int]]:
    """SD of the metric over seeds, and its degrees of freedom, of each group of otherwise equal runs that has several
    seeds and any spread. A run that was made twice counts once.
    """
    about = ("run_id", "arm", "seed", *NOT_IDENTITY)
    settings = [key for key in map(str, runs) if key not in about and not key.startswith(PREFIXES)]
    once = runs.drop_duplicates([*settings, "seed"], keep="last")
    groups = once.groupby(settings, dropna=False)[metric.column].agg(["std", "count"])
    groups = groups[groups["std"] > 0]  # 0: nothing was found in any run
    return groups["std"].tolist(), (groups["count"] - 1).tolist()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
