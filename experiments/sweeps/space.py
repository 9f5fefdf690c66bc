"""The space of a sweep: what is searched, and the configuration that a choice in it gives.

Everything is a setting of the configuration or a recipe of several, and becomes overrides as one would type them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from detr.config import RunConfig
from detr.config_io import flatten, to_dict
from detr.errors import InputError, alternatives
from detr.horizon import parse_horizon
from experiments.definition.compose import compose, override_key, run_config

FORMS = ("float", "int", "choices")
LENGTH = ("horizon", "schedule.horizon")  # fixed by the rungs
RESERVED = ("number", "place", "state", "reason", "known", "evaluations", "steps", "num_steps", "seconds", "started",
            "ended", "run_id")  # fmt: skip  # columns of the frame of trials


Distribution = FloatDistribution | IntDistribution | CategoricalDistribution


@dataclass(frozen=True)
class Setting:
    """One thing that is searched."""

    name: str
    distribution: Distribution
    levels: dict[str, list[str]]  # of a recipe: choice -> overrides; empty for a single setting
    when: dict[str, list[Any]]  # earlier setting -> its choices for which this one is searched

    def applies(self, chosen: dict[str, Any]) -> bool:
        """Whether it is searched, given the earlier settings' values."""
        return all(chosen.get(name) in choices for name, choices in self.when.items())

    def overrides(self, value: Any) -> list[str]:
        """What one would type on the command line for this value."""
        return self.levels[value] if self.levels else [f"{self.name}={'null' if value is None else value}"]

    def suggest(self, trial: Trial) -> Any:
        """Optuna's value for it."""
        range_ = self.distribution
        if isinstance(range_, CategoricalDistribution):
            return trial.suggest_categorical(self.name, range_.choices)
        if isinstance(range_, IntDistribution):
            return trial.suggest_int(self.name, range_.low, range_.high, step=range_.step, log=range_.log)
        return trial.suggest_float(self.name, range_.low, range_.high, step=range_.step, log=range_.log)

    @property
    def words(self) -> str:
        """What is searched, for people."""
        span = self.distribution
        if isinstance(span, CategoricalDistribution):
            text = ", ".join(map(str, span.choices))
        else:
            text = f"{span.low:g} to {span.high:g}" + (", log" if span.log else "")
            text += f" in steps of {span.step:g}" if span.step and not span.log and span.step != 1 else ""
        condition = " and ".join(f"{name} is {' or '.join(map(str, values))}" for name, values in self.when.items())
        return f"{text} (where {condition})" if condition else text

    def ends(self) -> list[Any]:
        """The values at which it is checked: both ends, or all choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        return [self.distribution.low, self.distribution.high]


def suggest(trial: Trial, settings: list[Setting]) -> dict[str, Any]:
    """Ask Optuna for the value of every setting that applies."""
    chosen: dict[str, Any] = {}
    for setting in settings:
        if setting.applies(chosen):
            chosen[setting.name] = setting.suggest(trial)
    return chosen


def overrides_of(settings: list[Setting], chosen: dict[str, Any]) -> list[str]:
    """The overrides that these values stand for."""
    return [o for setting in settings if setting.name in chosen for o in setting.overrides(chosen[setting.name])]


def config_of(shared: list[str], settings: list[Setting], chosen: dict[str, Any], rung: str, seed: int) -> RunConfig:
    """The configuration of a run; InputError where the values do not fit together."""
    return run_config(compose([*shared, *overrides_of(settings, chosen), f"horizon={rung}"], "search"), seed)


def check_space(shared: list[str], settings: list[Setting], known: dict[str, dict[str, Any]], rung: str) -> None:
    """Compose every choice, both ends of every range and every known recipe; InputError names the one that is refused.

    The rest of the configuration is as the file has it. A combination that is refused all the same ends its trial.
    """
    cases = [(f"sweep.known.{name}", chosen) for name, chosen in known.items()]
    for setting in settings:
        under = {name: choices[0] for name, choices in setting.when.items()}
        cases += [(f"sweep.space.{setting.name}", under | {setting.name: value}) for value in setting.ends()]
    lengths = set()
    for where, chosen in cases:
        try:
            config = config_of(shared, settings, chosen, rung, seed=0)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        lengths.add(config.schedule.full_epochs)
        if len(lengths) > 1 and parse_horizon(rung).unit in ("full", "%"):
            raise InputError(
                f"{where}: changes schedule.full_epochs, of which the rung {rung!r} is a part, so schedule and length "
                "would be searched together; give sweep.rungs in steps, samples or epochs"
            )


def read_space(space: Any) -> list[Setting]:
    """The settings of `sweep.space`, in its order; InputError names the one that is wrong."""
    if not isinstance(space, dict):
        raise InputError(f"sweep.space: must map settings to what is searched, not {space!r}")
    settings: list[Setting] = []
    for name, given in space.items():
        where = f"sweep.space.{name}"
        if name in RESERVED or str(name).startswith(("val/", "metrics.")):
            raise InputError(f"{where}: the name is taken; call it something else")
        if not isinstance(given, dict) or sum(form in given for form in FORMS) != 1:
            raise InputError(f"{where}: give one of float: [low, high], int: [low, high], choices: [...], not {given}")
        for key in given:
            known_key(f"{where}.{key}", key, (*FORMS, "log", "step", "when"))
        levels = given["choices"] if isinstance(given.get("choices"), dict) else {}
        _check_names(where, str(name), {str(level): overrides for level, overrides in levels.items()})
        when = _read_when(where, given.get("when") or {}, settings)
        distribution = _distribution(where, given)
        settings.append(Setting(str(name), distribution, {str(k): v for k, v in levels.items()}, when))
    return settings


def _check_names(where: str, name: str, levels: dict[str, Any]) -> None:
    """A single setting must exist, and nothing may search the length of the runs."""
    for level, overrides in levels.items():
        if not isinstance(overrides, list) or not all(isinstance(o, str) and "=" in o for o in overrides):
            raise InputError(
                f"{where}.choices.{level}: must be a list of overrides such as [optim.lr=1e-4], not {overrides!r}"
            )
    known = flatten(to_dict(RunConfig()))
    if not levels and name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"{where}: unknown setting; {hint}`python experiments/sweep.py --help` lists them. "
            "A name of your own takes choices: {choice: [overrides]}"
        )
    for key in [name] if not levels else [override_key(o) for overrides in levels.values() for o in overrides]:
        if key in LENGTH:
            raise InputError(
                f"{where}: {key} cannot be searched; the horizon is fixed per rung (sweep.rungs), since a schedule and "
                "a length that vary together cannot be told apart"
            )
        if key == "seed":
            raise InputError(f"{where}: a seed is no setting to choose; seeds=[0,1] runs every trial with both")


def _distribution(where: str, given: dict[str, Any]) -> Distribution:
    form = next(form for form in FORMS if form in given)
    value = given[form]
    if form == "choices":
        if len(value) < 2 or "log" in given or "step" in given:
            raise InputError(f"{where}.choices: give two or more, and neither log nor step")
        return CategoricalDistribution([str(level) for level in value] if isinstance(value, dict) else value)
    numbers = (int, float) if form == "float" else (int,)
    if not isinstance(value, list) or len(value) != 2 or not all(type(x) in numbers for x in value):
        raise InputError(f"{where}.{form}={value!r}: give [low, high]")
    kind = FloatDistribution if form == "float" else IntDistribution
    options = {"log": given.get("log", False)} | ({"step": given["step"]} if "step" in given else {})
    try:
        if value[0] >= value[1]:
            raise ValueError(f"low must be below high, not {value}")
        return kind(*value, **options)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from None


def _read_when(where: str, when: Any, earlier: list[Setting]) -> dict[str, list[Any]]:
    found = {}
    if not isinstance(when, dict):
        raise InputError(f"{where}.when={when!r}: must map an earlier setting to its choices")
    for name, choices in when.items():
        setting = next((s for s in earlier if s.name == name), None)
        if setting is None or not isinstance(setting.distribution, CategoricalDistribution):
            above = [s.name for s in earlier if isinstance(s.distribution, CategoricalDistribution)]
            raise InputError(
                f"{where}.when.{name}: must be a setting with choices that stands above it; "
                f"there are {', '.join(above) or 'none'}"
            )
        found[name] = [str(c) if setting.levels else c for c in (choices if isinstance(choices, list) else [choices])]
        for choice in found[name]:
            if choice not in setting.distribution.choices:
                raise InputError(
                    f"{where}.when.{name}={choice!r}: choose from {', '.join(map(str, setting.distribution.choices))}"
                )
    return found


def read_known(known: Any, settings: list[Setting], base: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """name -> setting -> value, complete: what a recipe leaves out has its value of the configuration."""
    present = flatten({k: v for k, v in base.items() if isinstance(v, dict)})
    found: dict[str, dict[str, Any]] = {}
    for recipe, given in (known or {}).items():
        where = f"sweep.known.{recipe}"
        if not isinstance(given, dict):
            raise InputError(f"{where}: must map settings to values, not {given!r}")
        for name in given:
            known_key(f"{where}.{name}", name, [s.name for s in settings])
        chosen: dict[str, Any] = {}
        for setting in settings:
            name = setting.name
            if not setting.applies(chosen):
                if name in given:
                    raise InputError(f"{where}.{name}: is not searched there, as it is only {setting.when}")
                continue
            if name not in given and setting.levels:
                raise InputError(f"{where}: lacks {name}; choose from {', '.join(setting.levels)}")
            value = given.get(name, present.get(name))
            chosen[name] = _inside(f"{where}.{name}", setting, str(value) if setting.levels else value)
        found[str(recipe)] = chosen
    return found


def _inside(where: str, setting: Setting, value: Any) -> Any:
    distribution = setting.distribution
    if isinstance(distribution, CategoricalDistribution):
        fits, range_ = value in distribution.choices, ", ".join(map(str, distribution.choices))
    else:
        range_ = f"{distribution.low} to {distribution.high}"
        numbers = (int,) if isinstance(distribution, IntDistribution) else (int, float)
        fits = type(value) in numbers and distribution.low <= value <= distribution.high
    if not fits:
        raise InputError(f"{where}={value!r}: is not in sweep.space.{setting.name} ({range_})")
    return value


def known_key(where: str, key: Any, known: Sequence[str]) -> None:
    """InputError, with the nearest known key, where `key` is none of them."""
    if key not in known:
        raise InputError(f"{where}: unknown; {alternatives(key, known)}")
