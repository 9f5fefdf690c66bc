"""One line of a run's journals, records.jsonl and system.jsonl: what is written, uploaded and read again."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LENGTHS = ("num_steps", "epoch", "samples", "seconds")  # what a record of training knows beside its step


@dataclass(frozen=True)
class RecordLine:
    """Metrics at one step. Of training the line has the run's lengths as well; of the machine's use it has none."""

    time: float  # seconds since 1970
    step: int
    metrics: Mapping[str, float]
    num_steps: int | None = None  # of the whole run
    epoch: float | None = None
    samples: int | None = None
    seconds: float | None = None  # of training

    @classmethod
    def stamped(cls, **values: Any) -> "RecordLine":
        """A line with the present time."""
        return cls(time=round(time.time(), 3), **values)

    @property
    def is_evaluation(self) -> bool:
        """Whether the line holds no metric of training, and comes after the record of its step."""
        return not any(key.startswith("train/") for key in self.metrics)

    @property
    def place(self) -> tuple[int, bool]:
        """Position in the run: lines are in rising order of it."""
        return self.step, self.is_evaluation

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, content: Any) -> "RecordLine":
        """The line that `to_dict` gave; ValueError names the first fault."""
        if not isinstance(content, dict):
            raise ValueError("it must hold an object")
        for key in ("time", "step", "metrics"):
            if key not in content:
                raise ValueError(f"it lacks {key!r}")
        for key in content:
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"{str(key)[:50]!r} is no key of a record")
        step, metrics = content["step"], content["metrics"]
        if type(step) is not int or not 0 <= step < 2**53:
            raise ValueError("'step' is no step")
        if not isinstance(metrics, dict):
            raise ValueError("'metrics' must be names with numbers")
        lengths = {key: content[key] for key in LENGTHS if key in content}
        for key, value in ({"time": content["time"]} | lengths | metrics).items():
            if not _is_number(value):
                raise ValueError(f"{str(key)[:50]!r} is no number, or none that can be")
        if not 0 <= content["time"] < 1e11:
            raise ValueError("'time' is no time")
        line = cls(content["time"], step, {key: float(value) for key, value in metrics.items()}, **lengths)
        if not line.is_evaluation and len(lengths) < len(LENGTHS):
            raise ValueError(f"a record of training must have {', '.join(LENGTHS)}")
        return line


def _is_number(value: Any) -> bool:
    """Whether the value is a float, or an integer that one can hold."""
    return type(value) is float or (type(value) is int and value.bit_length() < 1024)
