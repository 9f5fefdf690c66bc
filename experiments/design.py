"""Ablations: factors and levels -> named arms -> runs.

An ablation file states, below `ablation:`

    design    factorial: all combinations; one_factor: one arm to start from, and one more for every level that differs
              from it in one factor; listed: the combinations in `arms`, where an unnamed factor keeps its baseline
    from      of one_factor: baseline, or opposite: no factor at its baseline (which asks for two levels each)
    factors   name -> level -> the overrides that it stands for
    baseline  name -> level
    primary   the contrast that the ablation is for: {factor: [level, against]}, or a pair of arms
              [{factor: level, ...}, {factor: level, ...}]; by default the first factor's second level against its
              baseline
    margin    AP points (0..100): a difference within it does not matter
"""

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detr.config import RunConfig
from detr.config_io import flatten, to_dict
from detr.data import split_paths
from detr.errors import InputError
from detr.schedule import parse_horizon
from experiments.compose import compose, override_key, run_config
from experiments.results.contrasts import factor_pairs

# Settings that change how a run is computed, not what it computes. They do not make it another run.
NOT_IDENTITY = ("data.root", "data.num_workers", "data.verify_images", "train.device", "train.num_threads",
                "train.checkpoint_minutes")  # fmt: skip
DESIGNS, STARTS = ("factorial", "one_factor", "listed"), ("baseline", "opposite")
KEYS = ("name", "question", "design", "from", "factors", "arms", "baseline", "primary", "margin")
RESERVED = ("run_id", "arm", "seed", "state", "error")  # columns of the frame of runs, beside one a factor

Factors = dict[str, dict[str, list[str]]]  # factor -> level -> overrides


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
    design: str  # factorial | one_factor | listed
    factors: dict[str, list[str]]  # factor -> levels, the baseline's first
    baseline: str  # name of the arm that others are compared with: the baseline, or where one_factor starts
    primary: dict[str, str] | None  # {factor, level, against} or {arm, against}; None: there is nothing to compare
    margin: float  # of equivalence, AP points
    horizon: str
    seeds: list[int]
    arms: list[Arm]
    fresh: bool  # start anew beside what is there
    workers: int | None  # runs at the same time; None: what the machine takes
    plan_only: bool = False  # say what would be run, and run nothing

    @property
    def identity(self) -> str:
        """Hash of all that the arms compute, data included; seeds may be added later without changing it."""
        return _digest([[arm.name, identity(arm.config)] for arm in self.arms])

    def describe(self) -> dict[str, Any]:
        """The design as plain values, for the readers of results."""
        keys = ("name", "question", "design", "factors", "baseline", "primary", "margin", "horizon", "seeds")
        return {key: getattr(self, key) for key in keys} | {
            "arms": {arm.name: arm.levels for arm in self.arms},
            "settings": varied(self.arms),
            "images": str(split_paths(self.arms[0].config.data, "val")[1].resolve()),  # for pictures of detections
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


def differs(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ, by their dotted names, with both values.

    The seed is none of them, nor is the length of the published schedule where the horizon does not refer to it.
    """
    one, other = flatten(to_dict(a)), flatten(to_dict(b))
    found = {key: (one[key], other[key]) for key in one if one[key] != other[key] and key != "seed"}
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
    spec, given = base["ablation"], {override_key(override) for override in overrides}
    if "ablation.factors" in given and "ablation.primary" not in given:
        spec["primary"] = None  # that of the file belongs to the file's factors
    _check_spec(spec)
    factors = _factors(spec)
    baseline = _levels("ablation.baseline", spec.get("baseline") or {}, factors, complete=True)
    _check_overruled(overrides, factors)
    combinations, start = _combinations(spec, factors, baseline)
    arms = [_arm(levels, factors, overrides) for levels in combinations]
    return Ablation(
        name=spec["name"],
        question=spec["question"],
        design=spec["design"],
        factors={name: sorted(levels, key=lambda level: level != baseline[name]) for name, levels in factors.items()},
        baseline=_arm_name(start),
        primary=_primary(spec, factors, baseline, {arm.name: arm.levels for arm in arms}),
        margin=_margin(spec.get("margin", 1.0)),
        horizon=str(base["horizon"]),
        seeds=_seeds(base["seeds"]),
        arms=arms,
        fresh=base["fresh"],
        workers=_workers(base["workers"]),
        plan_only=_plan_only(base["plan"]),
    )


def _check_spec(spec: dict[str, Any]) -> None:
    """The keys of the ablation file, and the words that only some values fit."""
    for key in spec:
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise InputError(f"ablation.{key}: unknown key; {hint}There are {', '.join(KEYS)}")
    for key, choices in (("design", DESIGNS), ("from", STARTS)):
        if spec.get(key, choices[0]) not in choices:
            raise InputError(f"ablation.{key}={spec[key]!r}: choose from {', '.join(choices)}")
    if spec["design"] != "one_factor" and spec.get("from", "baseline") != "baseline":
        raise InputError(f"ablation.from={spec['from']}: only design=one_factor starts somewhere, not {spec['design']}")
    if (spec["design"] == "listed") != bool(spec.get("arms")):
        raise InputError("ablation.arms: a list of arms {factor: level, ...} belongs to design=listed, and only to it")


def _combinations(
    spec: dict[str, Any], factors: Factors, baseline: dict[str, str]
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The levels of every arm, and those of the arm that the others are compared with."""
    if spec["design"] == "factorial":
        return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())], baseline
    if spec["design"] == "one_factor":
        start = baseline if spec.get("from", "baseline") == "baseline" else _opposite(factors, baseline)
        others = [start | {name: level} for name in factors for level in factors[name] if level != start[name]]
        return [start, *others], start
    arms = spec["arms"]
    if not isinstance(arms, list):
        raise InputError(f"ablation.arms: must be a list of arms such as [{{lr: high, clip: off}}], not {arms!r}")
    listed = [baseline | _levels(f"ablation.arms[{i}]", arm, factors) for i, arm in enumerate(arms)]
    for i, levels in enumerate(listed):
        if levels in listed[:i]:
            raise InputError(f"ablation.arms[{i}]: {_arm_name(levels)} is listed twice")
    if baseline not in listed:
        raise InputError(f"ablation.arms: add the baseline {_arm_name(baseline)}, which the others are compared with")
    return listed, baseline


def _opposite(factors: Factors, baseline: dict[str, str]) -> dict[str, str]:
    """No factor at its baseline."""
    for name, levels in factors.items():
        if len(levels) != 2:
            raise InputError(
                f"ablation.from=opposite: the factor {name!r} has {len(levels)} levels, of which none is the opposite; "
                "leave two, or use design=listed"
            )
    return {name: next(level for level in levels if level != baseline[name]) for name, levels in factors.items()}


def _levels(where: str, given: Any, factors: Factors, complete: bool = False) -> dict[str, str]:
    """factor -> level as texts, in the factors' order; InputError for one that there is not, or that is missing."""
    if not isinstance(given, dict):
        raise InputError(f"{where}: must map factors to levels, not {given!r}")
    given = {str(name): str(level) for name, level in given.items()}
    for name in given:
        if name not in factors:
            raise InputError(f"{where}.{name}: there is no such factor; there are {', '.join(factors) or 'none'}")
    found = {name: given.get(name) for name in factors if complete or name in given}
    for name, level in found.items():
        if level not in factors[name]:
            raise InputError(f"{where}.{name}={level!r}: choose one of its levels, {', '.join(factors[name])}")
    return found


def _primary(
    spec: dict[str, Any], factors: Factors, baseline: dict[str, str], arms: dict[str, dict[str, str]]
) -> dict[str, str] | None:
    """The primary contrast in one of its two forms; InputError where no two arms show it."""
    given = spec.get("primary")
    if given is None:
        return _default_primary(factors, baseline, arms)
    if isinstance(given, list) and len(given) == 2:
        arm, against = (
            _arm_name(baseline | _levels(f"ablation.primary[{i}]", one, factors)) for i, one in enumerate(given)
        )
        for name in (arm, against):
            if name not in arms:
                raise InputError(f"ablation.primary: {name} is no arm of this design; there are {'; '.join(arms)}")
        if arm == against:
            raise InputError(f"ablation.primary: compares {arm} with itself")
        return {"arm": arm, "against": against}
    if (
        isinstance(given, dict)
        and len(given) == 1
        and isinstance(pair := next(iter(given.values())), list)
        and len(pair) == 2
    ):
        name = str(next(iter(given)))
        level, against = (_levels("ablation.primary", {name: one}, factors)[name] for one in pair)
        if not factor_pairs(arms, name, level, against) or level == against:
            raise InputError(f"ablation.primary: no two arms differ in {name}={level} against {against} alone")
        return {"factor": name, "level": level, "against": against}
    raise InputError(
        f"ablation.primary={given!r}: give {{factor: [level, against]}} or two arms "
        "[{factor: level, ...}, {factor: level, ...}]"
    )


def _default_primary(
    factors: Factors, baseline: dict[str, str], arms: dict[str, dict[str, str]]
) -> dict[str, str] | None:
    """The first factor's second level against its baseline, or where no arms show one, an arm against the baseline."""
    for name, levels in factors.items():
        for level in levels:
            if level != baseline[name] and factor_pairs(arms, name, level, baseline[name]):
                return {"factor": name, "level": level, "against": baseline[name]}
    others = [arm for arm in arms if arm != _arm_name(baseline)]
    return {"arm": others[0], "against": _arm_name(baseline)} if others else None


def _margin(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < 100:
        raise InputError(f"ablation.margin={value!r}: give AP points between 0 and 100, such as 0.5")
    return float(value)


def _plan_only(value: Any) -> bool:
    if type(value) is not bool:
        raise InputError(f"plan={value!r}: true says what would be run, and false runs it")
    return value


def _factors(spec: dict[str, Any]) -> Factors:
    """factor -> level -> overrides, as the ablation file states them."""
    factors: Factors = {}
    for name, levels in (spec.get("factors") or {}).items():
        if name in RESERVED:
            raise InputError(f"ablation.factors.{name}: the name is taken; call the factor something else")
        if not isinstance(levels, dict) or not levels:
            raise InputError(f"ablation.factors.{name}: must map each level to a list of overrides, not {levels!r}")
        for level, settings in levels.items():
            if not isinstance(settings, list) or not all(isinstance(s, str) and "=" in s for s in settings):
                raise InputError(
                    f"ablation.factors.{name}.{level}: must be a list of overrides such as [optim.lr=1e-4], "
                    f"not {settings!r}"
                )
        factors[str(name)] = {str(level): settings for level, settings in levels.items()}
    return factors


def _arm(levels: dict[str, str], factors: Factors, overrides: list[str]) -> Arm:
    settings = [setting for name, level in levels.items() for setting in factors[name][level]]
    try:
        composed = compose([*overrides, *settings])
        return Arm(_arm_name(levels), levels, run_config(composed, seed=0))
    except InputError as error:
        where = f"arm {_arm_name(levels)}: " if settings else ""
        raise InputError(f"{where}{error}") from None


def _arm_name(levels: dict[str, str]) -> str:
    return ",".join(f"{name}={level}" for name, level in levels.items()) or "single"


def _check_overruled(overrides: list[str], factors: Factors) -> None:
    given = {override_key(o) for o in overrides}
    for name, levels in factors.items():
        for settings in levels.values():
            overruled = given & {override_key(s) for s in settings}
            if overruled:
                raise InputError(
                    f"{overruled.pop()} is varied by the factor {name!r} of this ablation, so the command line cannot "
                    "set it"
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
