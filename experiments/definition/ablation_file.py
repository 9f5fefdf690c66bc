"""The `ablation:` part of a configuration, checked: factors, arms, the primary contrast.

An ablation file states, below `ablation:`

    name, question
    design    factorial: all combinations; one_factor: one arm to start from, and one more for every level that differs
              from it in one factor; listed: the combinations in `arms`, where an unnamed factor keeps its baseline
    from      of one_factor: baseline, or opposite: no factor at its baseline (which asks for two levels each)
    factors   name -> level -> the overrides that it stands for
    baseline  name -> level
    arms      of listed: a list of {factor: level, ...}
    primary   the contrast that the ablation is for: {factor: [level, against]}, or a pair of arms
              [{factor: level, ...}, {factor: level, ...}]; by default the first factor's second level against its
              baseline
    metric    what decides: any logged metric (val/AP, val/APS, val/AP50, val/AP/<class>, val/loss, ...) or seconds, of
              training. Of AP and AR higher values are better, of losses, errors and times lower ones; another one says
              it: {name: diagnostics/query_use, better: higher}. A list makes several primary metrics, whose p-values
              are Holm-corrected; the first one leads tables and figures. By default val/AP
    margin    a difference within it does not matter: in points for AP and AR, in the metric's unit for others. By
              default 1 point, and none for others, which then are never called equivalent. It holds for the metrics
              with the first one's unit; another's stands beside its name: {name: val/loss, margin: 0.05}
"""

import itertools
from pathlib import Path
from typing import Any

from detr.errors import InputError, alternatives
from experiments.definition.compose import override_key
from experiments.schema.contrasts import factor_pairs
from experiments.schema.design import ArmPair, LevelPair, metrics_of
from experiments.schema.metrics import AP, Metric, is_margin

DESIGNS, STARTS = ("factorial", "one_factor", "listed"), ("baseline", "opposite")
KEYS = ("name", "question", "design", "from", "factors", "arms", "baseline", "primary", "metric", "margin")
RESERVED = ("run_id", "arm", "seed", "state", "error")  # columns of the frame of runs, beside one a factor
Factors = dict[str, dict[str, list[str]]]  # factor -> level -> overrides


def check_spec(spec: dict[str, Any]) -> None:
    """The keys of the ablation file, and the words that only some values fit."""
    for key in spec:
        if key not in KEYS:
            raise InputError(f"ablation.{key}: unknown key; {alternatives(key, KEYS)}")
    check_named("ablation", spec, "experiments/definition/ablation_file.py")
    for key, choices in (("design", DESIGNS), ("from", STARTS)):
        if spec.get(key, choices[0]) not in choices:
            raise InputError(f"ablation.{key}={spec[key]!r}: choose from {', '.join(choices)}")
    if spec["design"] != "one_factor" and spec.get("from", "baseline") != "baseline":
        raise InputError(f"ablation.from={spec['from']}: only design=one_factor starts somewhere, not {spec['design']}")
    if (spec["design"] == "listed") != bool(spec.get("arms")):
        raise InputError("ablation.arms: a list of arms {factor: level, ...} belongs to design=listed, and only to it")


def check_named(group: str, spec: dict[str, Any], explained: str) -> None:
    """A name, of which folders are made, and a question."""
    for key in ("name", "question"):
        if not spec.get(key):
            raise InputError(f"{group}.{key}: is missing; {explained} explains every key")
    if Path(name := str(spec["name"])).name != name:
        raise InputError(f"{group}.name={name!r}: folders are called after it, so it can be no path")


def read_factors(spec: dict[str, Any]) -> Factors:
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


def read_levels(where: str, given: Any, factors: Factors, complete: bool = False) -> dict[str, str]:
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


def combine(
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
    listed = [baseline | read_levels(f"ablation.arms[{i}]", arm, factors) for i, arm in enumerate(arms)]
    for i, levels in enumerate(listed):
        if levels in listed[:i]:
            raise InputError(f"ablation.arms[{i}]: {arm_name(levels)} is listed twice")
    if baseline not in listed:
        raise InputError(f"ablation.arms: add the baseline {arm_name(baseline)}, which the others are compared with")
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


def read_primary(
    spec: dict[str, Any], factors: Factors, baseline: dict[str, str], arms: dict[str, dict[str, str]]
) -> LevelPair | ArmPair | None:
    """The primary contrast in one of its two forms; InputError if no two arms show it."""
    given = spec.get("primary")
    if given is None:
        return _default_primary(factors, baseline, arms)
    if isinstance(given, list) and len(given) == 2:
        arm, against = (
            arm_name(baseline | read_levels(f"ablation.primary[{i}]", one, factors)) for i, one in enumerate(given)
        )
        for name in (arm, against):
            if name not in arms:
                raise InputError(f"ablation.primary: {name} is no arm of this design; there are {'; '.join(arms)}")
        if arm == against:
            raise InputError(f"ablation.primary: compares {arm} with itself")
        return ArmPair(arm, against)
    if (
        isinstance(given, dict)
        and len(given) == 1
        and isinstance(pair := next(iter(given.values())), list)
        and len(pair) == 2
    ):
        name = str(next(iter(given)))
        level, against = (read_levels("ablation.primary", {name: one}, factors)[name] for one in pair)
        if not factor_pairs(arms, name, level, against) or level == against:
            raise InputError(f"ablation.primary: no two arms differ in {name}={level} against {against} alone")
        return LevelPair(name, level, against)
    raise InputError(
        f"ablation.primary={given!r}: give {{factor: [level, against]}} or two arms "
        "[{factor: level, ...}, {factor: level, ...}]"
    )


def _default_primary(
    factors: Factors, baseline: dict[str, str], arms: dict[str, dict[str, str]]
) -> LevelPair | ArmPair | None:
    """The first factor's second level against its baseline, or if no arms show one, an arm against the baseline."""
    for name, levels in factors.items():
        for level in levels:
            if level != baseline[name] and factor_pairs(arms, name, level, baseline[name]):
                return LevelPair(name, level, baseline[name])
    others = [arm for arm in arms if arm != arm_name(baseline)]
    return ArmPair(others[0], arm_name(baseline)) if others else None


def read_metrics(value: Any) -> tuple[Metric, ...]:
    """The primary metrics; val/AP if none is given."""
    try:
        return metrics_of(value or AP.key)
    except ValueError as error:
        raise InputError(f"ablation.metric={value!r}: {error}") from None


def read_margin(value: Any, metric: Metric) -> float | None:
    """The margin of equivalence in the metric's unit; None if none is given."""
    if value is None:
        return None
    if metric.unit == "points" and not (is_margin(value) and value < 100):
        raise InputError(f"ablation.margin={value!r}: give {metric.label} points between 0 and 100, such as 0.5")
    if not is_margin(value):
        raise InputError(f"ablation.margin={value!r}: give a difference of {metric.label} above 0, in its own unit")
    return float(value)


def check_overruled(overrides: list[str], factors: Factors) -> None:
    """InputError for an override of the command line that a level would overrule."""
    given = {override_key(o) for o in overrides}
    for name, levels in factors.items():
        for settings in levels.values():
            overruled = given & {override_key(s) for s in settings}
            if overruled:
                raise InputError(
                    f"{overruled.pop()} is varied by the factor {name!r} of this ablation, so the command line cannot "
                    "set it"
                )


def arm_name(levels: dict[str, str]) -> str:
    """The levels as a name, "recipe=official,clip=0.1"; that of the only arm where there are no factors is "single"."""
    return ",".join(f"{name}={level}" for name, level in levels.items()) or "single"
