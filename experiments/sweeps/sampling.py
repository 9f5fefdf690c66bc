"""What a sweep asks next, and what it gives up: Optuna's samplers and pruners by the names of the sweep file."""

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from detr.errors import InputError
from experiments.results.reading.sweep_trials import attributes_of
from experiments.sweeps.sweep_file import Sweep

SAMPLERS = {
    "tpe": TPESampler,
    "random": RandomSampler,
    "gp": GPSampler,
    "qmc": QMCSampler,
    "nsgaii": NSGAIISampler,
    "nsgaiii": NSGAIIISampler,
    "grid": RandomSampler,  # never asked: every place of a grid has its values beforehand
}
PRUNERS = {
    "halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "median": MedianPruner,
    "percentile": PercentilePruner,
    "wilcoxon": WilcoxonPruner,
    "none": NopPruner,
}


class SeededByPlace(BaseSampler):
    """A sampler that starts anew for every trial, with a seed of the trial's place.

    So what is proposed depends on the trials before and not on the process that asks: a sweep repeats itself with one
    worker however often it is interrupted, and several workers do not draw the same numbers.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.inner = build_sampler(options, 0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """A trial is begun."""
        self.inner = build_sampler(self.options, attributes_of(trial).place or 0)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The inner sampler's."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The inner sampler's."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The inner sampler's."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """A trial has ended."""
        self.inner.after_trial(study, trial, state, values)


def build_sampler(options: Mapping[str, Any], place: int) -> BaseSampler:
    """Optuna's sampler of these options; InputError for those that it does not take."""
    given = {key: value for key, value in options.items() if key not in ("name", "seed")}
    kind = _choose("sampler", options["name"], SAMPLERS)
    seed = int(np.random.SeedSequence((options.get("seed", 0), place)).generate_state(1)[0])
    if kind is QMCSampler:  # one sequence for all trials; what it cannot place is drawn at random
        given |= {"independent_sampler": RandomSampler(seed), "warn_independent_sampling": False}
        seed = options.get("seed", 0)
    if kind is GPSampler:
        given |= {"independent_sampler": RandomSampler(seed)}
    return _build("sampler", kind, given | {"seed": seed})


def build_pruner(sweep: Sweep, evaluations: int) -> BasePruner:
    """Optuna's pruner of the sweep file; InputError where it could never prune.

    evaluations:  of a trial's run; they are the pruner's steps
    """
    given = {key: value for key, value in sweep.pruner.items() if key != "name"}
    name = sweep.pruner["name"]
    kind = _choose("pruner", name, PRUNERS)
    if kind is not NopPruner and (len(sweep.objectives) > 1 or sweep.metric == "seconds"):
        raise InputError(
            f"sweep.pruner={name}: Optuna prunes by one objective that is measured at evaluations; "
            "set sweep.pruner=none, or one objective"
        )
    if kind is HyperbandPruner:
        given = {"max_resource": evaluations} | given
    pruner = _build("pruner", kind, given)
    if kind is WilcoxonPruner:
        p = given.get("p_threshold", 0.1)
        if 0.5 ** (len(sweep.seeds) - 1) > p:
            raise InputError(
                f"sweep.pruner=wilcoxon: {len(sweep.seeds)} seeds can never give p < {p} before the last; "
                "give more seeds, as in seeds=[0,1,2,3,4,5], or another pruner"
            )
    return pruner


def _choose(key: str, name: Any, choices: Mapping[str, type]) -> type:
    if name not in choices:
        raise InputError(f"sweep.{key}={name!r}: choose from {', '.join(choices)}")
    return choices[name]


def _build(key: str, kind: type, options: dict[str, Any]) -> Any:
    known = [name for name in signature(kind).parameters if name != "seed"]
    for option in options:
        if option not in known and option != "seed":
            raise InputError(f"sweep.{key}.{option}: unknown; {kind.__name__} takes {', '.join(known) or 'no options'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind(**{name: value for name, value in options.items() if name in signature(kind).parameters})
    except (ValueError, TypeError) as error:
        raise InputError(f"sweep.{key}: {error}") from None
