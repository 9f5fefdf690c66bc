"""Ablations: factors and levels -> named arms -> runs.

The ablation file is read by `ablation_file`, which explains its keys.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detr.config import RunConfig
from detr.config_io import flatten, to_dict
from detr.data import split_paths
from detr.errors import InputError
from detr.horizon import parse_horizon
from experiments.definition.ablation_file import (
    Factors,
    arm_name,
    check_overruled,
    check_spec,
    combine,
    read_factors,
    read_levels,
    read_margin,
    read_metrics,
    read_primary,
)
from experiments.definition.compose import compose, run_config
from experiments.schema.design import Design

# Settings that change how a run is computed, not what it computes. They do not make it another run.
NOT_IDENTITY = ("data.root", "data.num_workers", "data.verify_images", "data.quarantine_share",
                "train.device", "train.num_threads", "train.num_processes", "train.checkpoint_minutes",
                "train.compile", "train.checkpoint_activations", "evaluation.backend")  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One combination of levels."""

    name: str  # "recipe=official,clip=0.1"
    levels: dict[str, str]  # factor -> level
    config: RunConfig  # with seed 0


@dataclass(frozen=True)
class Ablation:
    """A design, its arms with their configurations, and how they are to be run."""

    design: Design
    arms: list[Arm]
    fresh: bool  # start anew beside what is there
    workers: int | None  # runs at the same time; None: what the machine takes
    launcher: dict[str, Any]  # name and settings
    plan_only: bool = False  # say what would be run, and run nothing

    @property
    def num_processes(self) -> int:
        """Of one run."""
        return max(arm.config.train.num_processes for arm in self.arms)

    @property
    def identity(self) -> str:
        """Hash of all that the arms compute, data included; seeds may be added later without changing it."""
        return digest([[arm.name, identity(arm.config)] for arm in self.arms])

    def stored(self, seeds: Iterable[int]) -> Design:
        """The design for the readers of results: with all seeds that were ever asked for, and the folder of the
        validation images. Draws the built-in set if it is not there yet.
        """
        images = split_paths(self.arms[0].config.data, "val")[1].resolve()
        return replace(self.design, seeds=tuple(seeds), images=str(images))


@dataclass(frozen=True, eq=False)
class Run:
    """One arm with one seed."""

    name: str  # "recipe=official,clip=0.1,seed=0"
    arm: str
    levels: dict[str, str]
    config: RunConfig
    fingerprint: str  # of the data
    directory: Path


def expand(ablation: Ablation, folder: Path) -> list[Run]:
    """All runs in seed-major order: a seed is a block, run in every arm before the next seed is begun.

    So what is done first can be compared, an interrupted ablation has complete blocks, and a machine that changes over
    hours changes for all arms alike.
    """
    return [
        Run(
            name=f"{arm.name},seed={seed}",
            arm=arm.name,
            levels=arm.levels,
            config=replace(arm.config, seed=seed),
            fingerprint=data_fingerprint(arm.config),
            directory=folder / arm.name / f"seed-{seed}",
        )
        for seed in ablation.design.seeds
        for arm in ablation.arms
    ]


def identity(config: RunConfig) -> dict[str, Any]:
    """What makes two runs the same: all settings that change the result, and the annotations' content."""
    values = to_dict(config)
    for key in NOT_IDENTITY:
        section, name = key.split(".")
        del values[section][name]
    values["data"]["fingerprint"] = data_fingerprint(config)
    return values


def data_fingerprint(config: RunConfig) -> str:
    """Hash of both annotation files; of the drawing's settings where the scenes are drawn."""
    if config.data.name == "shapes" and not config.data.target:
        return digest({k: v for k, v in vars(config.data).items() if k.startswith("shapes_")})
    content = hashlib.sha256()
    for path, _ in (split_paths(config.data, "train"), split_paths(config.data, "val")):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def differs(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ, by their dotted names, with both values.

    The seed is none of them, nor is the length of the published schedule where the horizon does not refer to it.
    """
    one, other = flatten(to_dict(a)), flatten(to_dict(b))
    keys = dict.fromkeys([*one, *other])  # options of a user's own part need not be the same
    found = {k: (one.get(k), other.get(k)) for k in keys if one.get(k) != other.get(k) and k != "seed"}
    if not any(parse_horizon(config.schedule.horizon).unit in ("full", "%") for config in (a, b)):
        found.pop("schedule.full_epochs", None)
    return found


def varied(arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """arm -> the settings in which any two arms differ, with the arm's values, in the configuration's order."""
    keys = {key for a, b in itertools.combinations(arms, 2) for key in differs(a.config, b.config)}
    return {arm.name: {k: v for k, v in flatten(to_dict(arm.config)).items() if k in keys} for arm in arms}


def plan(overrides: list[str]) -> Ablation:
    """The ablation that the command line describes, with every arm's configuration checked.

    InputError names a key or value of the ablation file that is wrong, a factor level that sets nothing known, and an
    override that an arm would overrule.
    """
    base = compose(overrides)
    spec = base["ablation"]
    check_spec(spec)
    factors = read_factors(spec)
    baseline = read_levels("ablation.baseline", spec.get("baseline") or {}, factors, complete=True)
    check_overruled(overrides, factors)
    combinations, start = combine(spec, factors, baseline)
    metrics = read_metrics(spec.get("metric"))
    margin = read_margin(spec.get("margin"), metrics[0])
    arms = [_arm(levels, factors, overrides) for levels in combinations]
    levels_of = {arm.name: arm.levels for arm in arms}
    design = Design(
        name=str(spec["name"]),
        question=str(spec["question"]),
        design=spec["design"],
        factors={f: tuple(sorted(levels, key=lambda level: level != baseline[f])) for f, levels in factors.items()},
        arms=levels_of,
        baseline=arm_name(start),
        primary=read_primary(spec, factors, baseline, levels_of),
        horizon=str(base["horizon"]),
        seeds=tuple(read_seeds(base["seeds"])),
        metrics=metrics,
        margin=margin,
        settings=varied(arms),
    )
    return Ablation(
        design=design,
        arms=arms,
        fresh=base["fresh"],
        workers=read_workers(base["workers"]),
        launcher=base["launcher"],
        plan_only=read_plan_only(base["plan"]),
    )


def read_plan_only(value: Any) -> bool:
    """The value of `plan`."""
    if type(value) is not bool:
        raise InputError(f"plan={value!r}: true says what would be run, and false runs it")
    return value


def _arm(levels: dict[str, str], factors: Factors, overrides: list[str]) -> Arm:
    settings = [setting for name, level in levels.items() for setting in factors[name][level]]
    try:
        composed = compose([*overrides, *settings])
        return Arm(arm_name(levels), levels, run_config(composed, seed=0))
    except InputError as error:
        where = f"arm {arm_name(levels)}: " if settings else ""
        raise InputError(f"{where}{error}") from None


def read_seeds(value: Any) -> list[int]:
    """The value of `seeds`; InputError unless they are different whole numbers."""
    if not isinstance(value, list) or not value or not all(type(s) is int and s >= 0 for s in value):
        raise InputError(f"seeds={value!r}: give a list of integers from 0 on, as in seeds=[0,1,2]")
    if len(set(value)) < len(value):
        raise InputError(f"seeds={value!r}: a seed stands twice; a repeated seed is not a second sample")
    return value


def read_workers(value: Any) -> int | None:
    """The value of `workers`."""
    if value is not None and (type(value) is not int or value < 1):
        raise InputError(f"workers={value!r}: give the number of runs at the same time, at least 1, or null")
    return value


def digest(content: Any) -> str:
    """Short hash of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
