"""Ablations: factors and levels -> named arms -> runs."""

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detr.config import RunConfig
from detr.config_io import to_dict
from detr.data import split_paths
from detr.errors import InputError
from experiments.compose import compose, override_key, run_config

# Settings that change how a run is computed, not what it computes. They do not make it another run.
NOT_IDENTITY = ("data.root", "data.num_workers", "data.verify_images", "train.device", "train.num_threads",
                "train.checkpoint_minutes")  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One combination of levels."""

    name: str  # "recipe=official,clip=0.1"
    levels: dict[str, str]  # factor -> level
    config: RunConfig  # with seed 0


@dataclass(frozen=True)
class Ablation:
    """The arms and their question."""

    name: str
    question: str
    design: str
    factors: dict[str, list[str]]  # factor -> levels, the baseline's first
    baseline: str  # name of the baseline arm
    horizon: str
    seeds: list[int]
    arms: list[Arm]
    fresh: bool  # start anew beside what is there
    workers: int | None  # runs at the same time; None: what the machine takes

    @property
    def identity(self) -> str:
        """Hash of all that the arms compute, data included; seeds may be added later without changing it."""
        return _digest([[arm.name, identity(arm.config)] for arm in self.arms])

    def describe(self) -> dict[str, Any]:
        """The design as plain values, for the readers of results."""
        arms = {arm.name: arm.levels for arm in self.arms}
        return {key: getattr(self, key) for key in ("name", "question", "design", "factors", "baseline", "horizon")} | {
            "arms": arms
        }


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
    """All runs, every arm with the first seed before any with the second: what is done first can be compared."""
    return [
        Run(
            name=f"{arm.name},seed={seed}",
            arm=arm.name,
            levels=arm.levels,
            config=replace(arm.config, seed=seed),
            fingerprint=data_fingerprint(arm.config),
            directory=folder / arm.name / f"seed-{seed}",
        )
        for seed in ablation.seeds
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
    if config.data.name == "shapes":
        return _digest({k: v for k, v in vars(config.data).items() if k.startswith("shapes_")})
    digest = hashlib.sha256()
    for path, _ in (split_paths(config.data, "train"), split_paths(config.data, "val")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def plan(overrides: list[str]) -> Ablation:
    """The ablation that the command line describes, with every arm's configuration checked.

    InputError names a factor level that sets nothing known, and an override that an arm would overrule.
    """
    base = compose(overrides)
    spec, seeds = base["ablation"], _seeds(base["seeds"])
    factors = _factors(spec)
    baseline = {name: str(level) for name, level in (spec.get("baseline") or {}).items()}
    for name in factors:
        if baseline.get(name) not in factors[name]:
            known = ", ".join(factors[name])
            raise InputError(f"ablation.baseline.{name}={baseline.get(name)!r}: choose one of its levels, {known}")
    if spec["design"] != "factorial":
        raise InputError(f"ablation.design={spec['design']!r}: there is factorial")
    _check_overruled(overrides, factors)
    arms = [
        _arm(dict(zip(factors, levels, strict=True)), factors, overrides)
        for levels in itertools.product(*factors.values())
    ]
    return Ablation(
        name=spec["name"],
        question=spec["question"],
        design=spec["design"],
        factors={name: sorted(levels, key=lambda level: level != baseline[name]) for name, levels in factors.items()},
        baseline=_arm_name(baseline),
        horizon=str(base["horizon"]),
        seeds=seeds,
        arms=arms,
        fresh=base["fresh"],
        workers=_workers(base["workers"]),
    )


def _factors(spec: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """factor -> level -> overrides, as the ablation file states them."""
    factors = {}
    for name, levels in (spec.get("factors") or {}).items():
        if not isinstance(levels, dict) or not levels:
            raise InputError(f"ablation.factors.{name}: must map each level to a list of overrides, not {levels!r}")
        for level, settings in levels.items():
            if not isinstance(settings, list) or not all(isinstance(s, str) and "=" in s for s in settings):
                raise InputError(
                    f"ablation.factors.{name}.{level}: must be a list of overrides such as [optim.lr=1e-4], not {settings!r}"
                )
        factors[str(name)] = {str(level): settings for level, settings in levels.items()}
    return factors


def _arm(levels: dict[str, str], factors: dict[str, dict[str, list[str]]], overrides: list[str]) -> Arm:
    settings = [setting for name, level in levels.items() for setting in factors[name][level]]
    try:
        composed = compose([*overrides, *settings])
        return Arm(_arm_name(levels), levels, run_config(composed, seed=0))
    except InputError as error:
        where = f"arm {_arm_name(levels)}: " if settings else ""
        raise InputError(f"{where}{error}") from None


def _arm_name(levels: dict[str, str]) -> str:
    return ",".join(f"{name}={level}" for name, level in levels.items()) or "single"


def _check_overruled(overrides: list[str], factors: dict[str, dict[str, list[str]]]) -> None:
    given = {override_key(o) for o in overrides}
    for name, levels in factors.items():
        for settings in levels.values():
            overruled = given & {override_key(s) for s in settings}
            if overruled:
                raise InputError(
                    f"{overruled.pop()} is varied by the factor {name!r} of this ablation, so the command line cannot set it"
                )


def _seeds(value: Any) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(s) is int and s >= 0 for s in value):
        raise InputError(f"seeds={value!r}: give a list of integers from 0 on, as in seeds=[0,1,2]")
    if len(set(value)) < len(value):
        raise InputError(f"seeds={value!r}: a seed stands twice; a repeated seed is not a second sample")
    return value


def _workers(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise InputError(f"workers={value!r}: give the number of runs at the same time, at least 1, or null")
    return value


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
