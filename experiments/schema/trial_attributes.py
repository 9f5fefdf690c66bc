"""User attributes of a sweep's Optuna trials: what its workers write, and whoever reads the study relies on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

PARENT = "mlflow_run_id"  # attribute of the study, with the tracking address behind it


class Annotated(Protocol):
    """A running trial of Optuna."""

    def set_user_attr(self, key: str, value: Any) -> None:
        """Store one attribute."""


@dataclass(frozen=True)
class TrialAttributes:
    """Attributes by their stored names; a default stands for one that was not written."""

    place: int | None = None  # one of a fixed number, each to be held by one trial that ends
    surplus: bool = False  # it found the place taken, did nothing, and counts for nothing
    known: str = ""  # name of the recipe, of those that the sweep file knows beforehand
    reason: str | None = None  # why it failed, or was pruned other than by the pruner
    stopped: bool = False  # its process was asked to stop; the place goes on from there
    metrics: Mapping[str, float] = field(default_factory=dict)  # of its last evaluation, mean over its seeds
    steps: int | None = None  # optimiser steps done, over its seeds
    num_steps: int | None = None  # optimiser steps planned, over its seeds
    seconds: float | None = None  # of training, over its seeds
    mlflow_run_id: str | None = None  # of its first seed
    trial: int | None = None  # in the trust study: number of the trial that is re-run
    rung: str | None = None  # in the trust study: length of the re-run
    machine: str | None = None  # name of the machine that its process is on

    def to_dict(self) -> dict[str, Any]:
        """The attributes that differ from their defaults."""
        return {key: value for key, value in vars(self).items() if value != getattr(UNSET, key)}

    def write(self, trial: Annotated) -> None:
        """Set on a running trial the attributes that differ from their defaults."""
        for key, value in self.to_dict().items():
            trial.set_user_attr(key, value)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TrialAttributes":
        """Attributes of a stored trial; others than ours, as of Optuna's own tools, are passed over. ValueError names
        the first that is of a wrong kind.
        """
        given = {key: content[key] for key in KINDS if content.get(key) is not None}
        for key, value in given.items():
            if not KINDS[key](value):
                raise ValueError(f"the attribute {key!r} cannot be {str(value)[:50]!r}")
        return cls(**given)


UNSET = TrialAttributes()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # numpy's floats as well


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


KINDS: dict[str, Callable[[Any], bool]] = {
    "place": _is_count, "surplus": _is_bool, "known": _is_text, "reason": _is_text, "stopped": _is_bool,
    "metrics": _is_metrics, "steps": _is_count, "num_steps": _is_count, "seconds": _is_number,
    "mlflow_run_id": _is_text, "trial": _is_count, "rung": _is_text, "machine": _is_text,
}  # fmt: skip
