"""The `sweep:` part of a configuration, checked: what is searched, for what, how, and how far.

A sweep file states, below `sweep:`

    name, question
    space      setting -> one of {float: [low, high]}, {int: [low, high]}, both with `log: true` or `step:`, and
               {choices: [...]}. A name that is no setting takes {choices: {choice: [overrides], ...}}, as a recipe of
               several settings does. `when: {other: choice}`, or a list of choices, makes it a setting that is only
               searched where an earlier one has that choice
    known      name -> {setting: value}: recipes that are tried first; what one leaves out has its value of the
               configuration
    objective  a metric, or a list of them: val/AP (maximised), val/loss, seconds (minimised), see METRICS
    sampler    {name, seed, and what Optuna's sampler takes}
    pruner     {name, and what Optuna's pruner takes}; its steps are evaluations, with wilcoxon they are seeds
    trials     configurations in all, the known ones included
    time_limit_minutes   after it no trial is begun
    rungs      lengths, rising: the first is that of every trial; at the others some are run again, to see how far the
               ranks carry
    trust      {configurations: how many of them, seeds: with which}; by default 6, with a seed that the search has not
               seen
    heartbeat_seconds    of a database: a trial on another machine that gives no sign for twice as long is dead

Everything else in the file is a setting that all trials share.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from detr.errors import InputError
from detr.horizon import parse_horizon
from experiments.definition.ablation_file import check_named
from experiments.definition.arms import read_plan_only, read_seeds, read_workers
from experiments.definition.compose import compose, override_key
from experiments.results.trust import MIN_CONFIGURATIONS
from experiments.schema.metrics import PRECISION, Metric
from experiments.sweeps.space import LENGTH, Setting, known_key, read_known, read_space

KEYS = ("name", "question", "space", "known", "objective", "sampler", "pruner", "trials", "time_limit_minutes", "rungs",
        "trust", "heartbeat_seconds")  # fmt: skip
METRICS = (*(f"val/{name}" for name in PRECISION), "val/loss", "val/loss_ce", "val/loss_bbox", "val/loss_giou",
           "val/class_error", "seconds")  # fmt: skip
WAYS = {"higher": "maximize", "lower": "minimize"}


@dataclass(frozen=True)
class Sweep:
    """A search and its question."""

    name: str
    question: str
    overrides: list[str]  # of the command line: what all trials share
    settings: list[Setting]
    known: dict[str, dict[str, Any]]  # name -> setting -> value
    objectives: dict[str, str]  # metric -> maximize or minimize
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    trials: int
    time_limit_minutes: float | None
    rungs: list[str]
    seeds: list[int]  # of a trial
    trust_configurations: int
    trust_seeds: list[int]
    storage: str | None
    heartbeat_seconds: int
    fresh: bool
    workers: int | None
    launcher: dict[str, Any]  # name and settings
    plan_only: bool

    @property
    def metric(self) -> str:
        """The first objective, which ranks and prunes."""
        return next(iter(self.objectives))

    def describe(self) -> dict[str, Any]:
        """The search as plain values, for the readers of results."""
        keys = ("name", "question", "objectives", "known", "sampler", "pruner", "trials", "time_limit_minutes", "rungs",
                "seeds", "trust_configurations", "trust_seeds", "overrides")  # fmt: skip
        space = {setting.name: setting.words for setting in self.settings}
        return {key: getattr(self, key) for key in keys} | {"space": space}


def check_storage(address: str | None) -> None:
    """Refuses a password: the command line is seen by others, and stored with the sweep."""
    url = urlsplit(address or "")
    if url.password or "password" in parse_qs(url.query):
        raise InputError("storage: holds a password, which others would see; give it as PGPASSWORD or in ~/.pgpass")


def read_sweep(overrides: list[str]) -> Sweep:
    """The sweep that the command line describes; InputError names a key or value that is wrong.

    Whether the values are ones that a run accepts is checked by `sweep_space.check_space`.
    """
    base = compose(overrides, "search")
    spec = base["sweep"]
    for key in spec:
        known_key(f"sweep.{key}", key, KEYS)
    check_named("sweep", spec, "experiments/sweeps/sweep_file.py")
    check_storage(base["storage"])
    for key in ("space", "rungs"):
        if not spec.get(key):
            raise InputError(f"sweep.{key}: is missing; experiments/sweeps/sweep_file.py explains every key")
    _check_shared(overrides, base)
    settings = read_space(spec["space"])
    _check_overruled(overrides, settings)
    objectives = _read_objectives(spec["objective"])
    _check_comparable(objectives, settings)
    seeds = read_seeds(base["seeds"])
    trust = _read_trust(spec["trust"], seeds)
    return Sweep(
        name=str(spec["name"]),
        question=str(spec["question"]),
        overrides=overrides,
        settings=settings,
        known=read_known(spec["known"], settings, base),
        objectives=objectives,
        sampler=_named("sampler", spec["sampler"]),
        pruner=_named("pruner", spec["pruner"]),
        trials=_whole("trials", spec["trials"]),
        time_limit_minutes=_minutes(spec["time_limit_minutes"]),
        rungs=_read_rungs(spec["rungs"]),
        seeds=seeds,
        trust_configurations=trust["configurations"],
        trust_seeds=trust["seeds"],
        storage=base["storage"],
        heartbeat_seconds=_whole("heartbeat_seconds", spec["heartbeat_seconds"]),
        fresh=base["fresh"],
        workers=read_workers(base["workers"]),
        launcher=base["launcher"],
        plan_only=read_plan_only(base["plan"]),
    )


def _check_shared(overrides: list[str], base: dict[str, Any]) -> None:
    given = [override_key(override) for override in overrides]
    for key in LENGTH:
        if key in given:
            raise InputError(f"{key}: the length of a sweep's runs is fixed by sweep.rungs")
    if "ablation" in given:
        raise InputError("ablation: a sweep has none; python experiments/run.py runs ablations")
    if base["schedule"]["horizon"] != "full":
        raise InputError("horizon: the length of a sweep's runs is fixed by sweep.rungs; take it out of the sweep file")


def _check_overruled(overrides: list[str], settings: list[Setting]) -> None:
    """A setting is searched once, and not set on the command line."""
    searched = {override_key(override): "the command line sets it" for override in overrides}
    for setting in settings:
        keys = {override_key(o) for value in setting.ends() for o in setting.overrides(value)}
        for key in keys & searched.keys():
            raise InputError(f"sweep.space.{setting.name}: searches {key}, but {searched[key]} as well")
        searched |= dict.fromkeys(keys, f"sweep.space.{setting.name} searches it")


def _check_comparable(objectives: dict[str, str], settings: list[Setting]) -> None:
    """A loss is no objective where its own weights, or the number of layers that it sums over, are searched."""
    lost = [metric for metric in objectives if metric.startswith("val/loss")]
    for setting in settings if lost else []:
        for key in (override_key(o) for value in setting.ends() for o in setting.overrides(value)):
            if key.startswith("loss.") or key == "model.num_decoder_layers":
                raise InputError(
                    f"sweep.space.{setting.name}: {key} changes what {lost[0]} is, so its values cannot be compared; "
                    "set sweep.objective=val/AP, or do not search it"
                )


def _read_objectives(value: Any) -> dict[str, str]:
    metrics = value if isinstance(value, list) else [value]
    for metric in metrics:
        known_key(f"sweep.objective={metric!r}", metric, list(METRICS))
    if not metrics or len(set(metrics)) < len(metrics):
        raise InputError(f"sweep.objective={value!r}: give a metric, or a list of different ones")
    return {metric: WAYS[Metric.from_spec(metric).better] for metric in metrics}


def _read_rungs(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise InputError(f'sweep.rungs={value!r}: give a list of lengths, as in ["600 steps", "1800 steps"]')
    try:
        horizons = [parse_horizon(str(rung)) for rung in value]
    except InputError as error:
        raise InputError(f"sweep.rungs: {error}") from None
    if len({h.unit for h in horizons}) > 1 or sorted({h.amount for h in horizons}) != [h.amount for h in horizons]:
        raise InputError(f"sweep.rungs={value!r}: lengths must rise, all in the same unit")
    return [str(rung) for rung in value]


def _read_trust(value: Any, seeds: list[int]) -> dict[str, Any]:
    given = {"configurations": MIN_CONFIGURATIONS, "seeds": [max(seeds) + 1]} | (value or {})
    for key in given:
        known_key(f"sweep.trust.{key}", key, ("configurations", "seeds"))
    if type(given["configurations"]) is not int or given["configurations"] < MIN_CONFIGURATIONS:
        raise InputError(
            f"sweep.trust.configurations={given['configurations']!r}: at least {MIN_CONFIGURATIONS} tell something of "
            "an order; a single rung leaves the re-runs out"
        )
    return given | {"seeds": read_seeds(given["seeds"])}


def _named(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict) or "name" not in value:
        raise InputError(f"sweep.{key}={value!r}: give its name, or {{name: ..., and its options}}")
    return value


def _whole(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"sweep.{key}={value!r}: give a whole number, at least 1")
    return value


def _minutes(value: Any) -> float | None:
    if value is not None and (type(value) not in (int, float) or value <= 0):
        raise InputError(f"sweep.time_limit_minutes={value!r}: give a number of minutes, or null")
    return value
