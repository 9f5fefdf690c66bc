"""Metrics that an ablation may be judged by: key, direction, unit, and the form in which people read them.

A key is the name under which `detr.train` logs a metric; `seconds` is the training time, progress/seconds. AP and AR
are stored in 0..1 and shown in points, times 100, as papers do; every other metric is shown in its own unit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from experiments.schema import names

Better = Literal["higher", "lower"]
PRECISION = ("AP", "AP50", "AP75", "APS", "APM", "APL")  # with intervals over images
RECALL = ("AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
IN_POINTS = re.compile(rf"val/(ema/)?({'|'.join((*PRECISION, *RECALL))}|AP/.+)|diagnostics/AP_layer_\d+", re.DOTALL)
LOWER = re.compile(r"(train|val)/(ema/)?(loss(_\w+)?|class_error|cardinality_error|seconds|\w+_time)")
PREFIXES = ("train/", "val/", "diagnostics/", "progress/", "system/")
EXAMPLES = (*(f"val/{name}" for name in PRECISION), "val/loss", "val/loss_ce", "val/loss_bbox", "val/loss_giou",
            "val/class_error", "train/loss", "seconds", *(f"val/{name}" for name in RECALL))  # fmt: skip
CHOICES = "any logged one: val/AP, val/AP50, val/APS, val/AP/<class>, val/loss, train/..., diagnostics/..., seconds"


def in_points(key: str) -> bool:
    """Whether a metric is an AP or AR, which is stored in 0..1 and shown times 100."""
    return IN_POINTS.fullmatch(key) is not None


def direction(key: str) -> Better | None:
    """Which values of the metric are better; None if its name does not tell."""
    if in_points(key):
        return "higher"
    return "lower" if key == "seconds" or LOWER.fullmatch(key) else None


@dataclass(frozen=True)
class Metric:
    """One metric that decides."""

    key: str  # "val/APS", "val/AP/<class>", "val/loss", "seconds"
    better: Better = "higher"
    margin: float | None = None  # of equivalence in the shown unit; None: that of the design

    @classmethod
    def from_spec(cls, spec: Any) -> "Metric":
        """A metric by its key alone, or as {name, better, margin}. ValueError names what is wrong, and the choices."""
        given: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {"name": spec}
        key, better, margin = given.get("name"), given.get("better"), given.get("margin")
        if not isinstance(key, str) or not given.keys() <= {"name", "better", "margin"}:
            raise ValueError("give a metric's name, or {name: ..., better: higher or lower, margin: ...}")
        if key != "seconds" and (not key.startswith(PREFIXES) or key in PREFIXES):
            close = get_close_matches(key, EXAMPLES, n=1)
            raise ValueError(
                f"unknown metric {key!r}; {f'did you mean {close[0]}? ' if close else ''}there is {CHOICES}"
            )
        if margin is not None and not is_margin(margin):
            raise ValueError(f"the margin of {key} must be a positive number, not {margin!r}")
        known = direction(key)
        if better is None and known is None:
            close = get_close_matches(key, EXAMPLES, n=1)
            hint = f"did you mean {close[0]}? Otherwise " if close else ""
            raise ValueError(f"{hint}say which values of {key} are better: {{name: {key}, better: higher}}, or lower")
        if better not in (None, "higher", "lower"):
            raise ValueError(f"{key} can be better: higher or better: lower, not {better!r}")
        return cls(key, better or known or "higher", None if margin is None else float(margin))

    @property
    def spec(self) -> str | dict[str, Any]:
        """The shortest form that `from_spec` reads as this metric."""
        extra: dict[str, Any] = {"margin": self.margin} if self.margin is not None else {}
        if self.better != direction(self.key):
            extra = {"better": self.better} | extra
        return {"name": self.key} | extra if extra else self.key

    @property
    def column(self) -> str:
        """Name in MLflow, and in the frames that are read from it."""
        return names.SECONDS if self.key == "seconds" else names.stored_metric(self.key)

    @property
    def label(self) -> str:
        """Words of a sentence: "APS", "AP of bicycle", "val loss", "seconds"."""
        if self.key.startswith("val/AP/"):
            return f"AP of {self.key.removeprefix('val/AP/')}"
        if in_points(self.key):
            return self.key.partition("/")[2]
        return self.key.replace("/", " ")

    @property
    def heading(self) -> str:
        """Title of an axis or a column: the label with its unit."""
        return f"{self.label} x 100" if in_points(self.key) else self.label

    @property
    def unit(self) -> str:
        """Unit of a difference as it is shown: "points", "seconds", or the metric's own."""
        return "points" if in_points(self.key) else "seconds" if self.column.endswith("seconds") else self.label

    @property
    def scale(self) -> float:
        """Factor from stored to shown values."""
        return 100.0 if in_points(self.key) else 1.0

    @property
    def sign(self) -> int:
        """1 if higher values are better, -1 if lower ones are."""
        return 1 if self.better == "higher" else -1

    @property
    def precision(self) -> str | None:
        """Name of the AP in the match tables of the bootstrap, "APS" or "AP/<class>"; None if it has none: such a
        metric has no interval over images.
        """
        name = self.key.removeprefix("val/")
        return name if self.key.startswith("val/") and (name in PRECISION or name.startswith("AP/")) else None

    @property
    def digits(self) -> int:
        """Decimals of shown values."""
        return 1 if self.unit in ("points", "seconds") else 2 if self.key.endswith("/loss") else 3

    def shown(self, value: float) -> str:
        """A value in the shown unit, with a true minus."""
        return f"{self.scale * value:.{self.digits}f}".replace("-", "−")

    def difference(self, value: float) -> str:
        """A difference in the shown unit with its sign; no signed zero."""
        text = f"{self.scale * value:+.{self.digits}f}"
        return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


AP = Metric("val/AP")


def is_margin(value: Any) -> bool:
    """Whether the value can be a margin of equivalence: a positive number."""
    return type(value) in (int, float) and 0 < value < 1e9
