"""The design of an ablation: what its writer stores as ablation.json and every reader starts from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.schema.metrics import AP, Metric, is_margin

DEFAULT_MARGIN = 1.0  # points, of AP and AR; a metric in another unit has no margin unless one is given


@dataclass(frozen=True)
class LevelPair:
    """Two levels of a factor, compared over all pairs of arms that differ in nothing else."""

    factor: str
    level: str
    against: str


@dataclass(frozen=True)
class ArmPair:
    """Two arms."""

    arm: str
    against: str


@dataclass(frozen=True)
class Design:
    """Arms, their question, and by what they are judged."""

    name: str
    question: str
    design: str  # factorial | one_factor | listed
    factors: Mapping[str, tuple[str, ...]]  # factor -> levels, the baseline's first
    arms: Mapping[str, Mapping[str, str]]  # arm -> factor -> level
    baseline: str  # the arm that others are compared with
    primary: LevelPair | ArmPair | None  # None: the first factor's second level against its baseline, if there is one
    horizon: str
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...] = (AP,)  # primary ones; the first leads tables and figures
    margin: float | None = None  # of equivalence in the first metric's unit; None: the default
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # arm -> the settings in which arms differ
    images: str | None = None  # folder of the validation images

    @property
    def metric(self) -> Metric:
        """The first of the metrics."""
        return self.metrics[0]

    @property
    def num_runs(self) -> int:
        """Runs in all: arms times seeds."""
        return len(self.arms) * len(self.seeds)

    def margin_of(self, metric: Metric) -> float | None:
        """Margin of equivalence of a metric in its shown unit; None if equivalence cannot be claimed."""
        if metric.margin is not None:
            return metric.margin
        if self.margin is not None and metric.unit == self.metric.unit:
            return self.margin
        return DEFAULT_MARGIN if metric.unit == "points" else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them."""
        specs = [metric.spec for metric in self.metrics]
        return {
            "name": self.name,
            "question": self.question,
            "design": self.design,
            "factors": {name: list(levels) for name, levels in self.factors.items()},
            "arms": {arm: dict(levels) for arm, levels in self.arms.items()},
            "baseline": self.baseline,
            "primary": None if self.primary is None else vars(self.primary),
            "metric": specs[0] if len(specs) == 1 else specs,
            "margin": self.margin,
            "horizon": self.horizon,
            "seeds": list(self.seeds),
            "settings": {arm: dict(settings) for arm, settings in self.settings.items()},
            "images": self.images,
        }

    @classmethod
    def from_dict(cls, content: Any) -> "Design":
        """The design that `to_dict` gave; ValueError names the first fault. Older files lack some of OPTIONAL."""
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object, not {_cut(content)!r}")
        for key, (is_sound, kind) in (REQUIRED | OPTIONAL).items():
            if key not in content and key in REQUIRED:
                raise ValueError(f"it lacks {key!r}")
            if key in content and not is_sound(content[key]):
                raise ValueError(f"{key!r} must be {kind}, not {_cut(content[key])!r}")
        for key in content:
            if key not in REQUIRED | OPTIONAL:
                raise ValueError(f"{_cut(key)!r} is no key of a design")
        pair = content.get("primary")
        kinds = {frozenset(kind.__dataclass_fields__): kind for kind in (LevelPair, ArmPair)}
        if pair and frozenset(pair) not in kinds:
            raise ValueError("the primary contrast must have factor, level and against, or arm and against")
        design = cls(
            **{key: content[key] for key in ("name", "question", "design", "arms", "baseline", "horizon")},
            factors={name: tuple(levels) for name, levels in content["factors"].items()},
            primary=kinds[frozenset(pair)](**pair) if pair else None,
            seeds=tuple(content["seeds"]),
            metrics=metrics_of(content.get("metric", AP.key)),
            margin=content.get("margin"),
            settings=content.get("settings", {}),
            images=content.get("images"),
        )
        if fault := design.contradiction():
            raise ValueError(fault)
        return design

    def contradiction(self) -> str:
        """A part of the design that another part rules out; "" if there is none."""
        for arm, levels in self.arms.items():
            if levels.keys() != self.factors.keys() or any(levels[f] not in self.factors[f] for f in self.factors):
                return f"the arm {_cut(arm)!r} is no combination of the factors' levels"
        pair = self.primary
        if isinstance(pair, LevelPair):
            known = {pair.level, pair.against} <= set(self.factors.get(pair.factor, ()))
        else:
            known = pair is None or {pair.arm, pair.against} <= self.arms.keys()
        return "" if known else "the primary contrast names what is not in the design"


def metrics_of(spec: Any) -> tuple[Metric, ...]:
    """The metric or list of metrics that `metric:` names, each as `Metric.from_spec` reads it; ValueError if wrong."""
    found = tuple(Metric.from_spec(one) for one in (spec if isinstance(spec, list) else [spec]))
    if not found or len({metric.key for metric in found}) < len(found):
        raise ValueError("give one metric, or a list of different ones")
    return found


def _cut(value: Any) -> str:
    return str(value)[:50]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_levels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_seeds(value: Any) -> bool:
    return isinstance(value, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in value)


def _dict_of(is_sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_sound, value.values()))


def _or_none(is_sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_sound(value)


Rules = dict[str, tuple[Callable[[Any], bool], str]]  # key -> test, and what the value must be
REQUIRED: Rules = {
    "name": (_is_text, "a text"),
    "question": (_is_text, "a text"),
    "design": (_is_text, "a text"),
    "horizon": (_is_text, "a text"),
    "baseline": (_is_text, "the name of an arm"),
    "factors": (_dict_of(_is_levels), "names with their levels"),
    "arms": (_dict_of(_dict_of(_is_text)), "names with a level of each factor"),
    "seeds": (_is_seeds, "whole numbers"),
}
OPTIONAL: Rules = {
    "metric": (lambda value: isinstance(value, str | dict | list), "a metric or a list of them"),
    "margin": (_or_none(is_margin), "a positive number"),
    "settings": (_dict_of(lambda value: isinstance(value, dict)), "arms with their settings"),
    "images": (_or_none(_is_text), "a folder"),
    "primary": (_or_none(_dict_of(_is_text)), "two levels of a factor, or two arms"),
}
