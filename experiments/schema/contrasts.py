"""The contrasts of a design: pairs of arms that are compared, and the settings that change between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.schema.design import ArmPair, Design, LevelPair

PRIMARY, SECONDARY, EXPLORATORY = "primary", "secondary", "exploratory"


@dataclass(frozen=True)
class Contrast:
    """A difference of a metric between arms: the mean of arm minus counterpart over all pairs."""

    label: str  # "clip 1.0 against 0.1"
    role: str  # primary | secondary | exploratory
    pairs: tuple[tuple[str, str], ...]  # (arm, the arm it is compared with)
    changes: tuple[str, ...] = ()  # settings in which the arms of a pair differ

    @property
    def arms(self) -> list[str]:
        """The arms of the first side."""
        return [arm for arm, _ in self.pairs]

    @property
    def against(self) -> list[str]:
        """The arms of the second side."""
        return [arm for _, arm in self.pairs]

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every arm's mean in the difference; those of either side sum to 1."""
        return pair_weights(self.pairs)

    @property
    def described(self) -> str:
        """The label, with everything that changes if that is more than one setting."""
        return f"{self.label} (changes {listed(self.changes)} at once)" if len(self.changes) > 1 else self.label


def contrasts(design: Design) -> list[Contrast]:
    """The primary contrast, the secondary and the exploratory ones, each difference once.

    A factor's level against its baseline's, averaged over the other factors' levels, is secondary; an arm against the
    baseline arm is exploratory. If no two arms differ in one factor alone, the latter are secondary.
    """
    levels = [
        _of(design, LevelPair(factor, level, baseline))
        for factor, (baseline, *others) in design.factors.items()
        for level in others
    ]
    levels = [contrast for contrast in levels if contrast.pairs]
    others = [arm for arm in design.arms if arm != design.baseline and design.baseline in design.arms]
    arms = [_of(design, ArmPair(arm, design.baseline)) for arm in others]
    first = _of(design, design.primary) if design.primary else next(iter(levels or arms), None)
    if first is None:
        return []
    roles = [(PRIMARY, [first]), (SECONDARY, levels or arms), (EXPLORATORY, arms)]
    kept: dict[tuple[tuple[str, str], ...], Contrast] = {}
    for role, found in roles:
        for contrast in found:
            backwards = tuple((b, a) for a, b in contrast.pairs)
            if contrast.pairs not in kept and backwards not in kept:
                kept[contrast.pairs] = replace(contrast, role=role)
    return list(kept.values())


def factor_pairs(arms: Mapping[str, Mapping[str, str]], factor: str, level: str, against: str) -> list[tuple[str, str]]:
    """Pairs of arms that have these two levels of the factor and the same level of every other one."""

    def others(arm: str) -> dict[str, str]:
        return {name: value for name, value in arms[arm].items() if name != factor}

    return [
        (a, b)
        for a in arms
        for b in arms
        if arms[a][factor] == level and arms[b][factor] == against and others(a) == others(b)
    ]


def pair_weights(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Weights of the arms in the mean over pairs of first minus second."""
    weights = dict.fromkeys((arm for pair in pairs for arm in pair), 0.0)
    for arm, against in pairs:
        weights[arm] += 1 / len(pairs)
        weights[against] -= 1 / len(pairs)
    return weights


def differing(settings: Mapping[str, Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Settings in which the arms of any pair differ, in their order; none are known of an arm without settings."""
    found: dict[str, None] = {}
    for a, b in pairs:
        one, other = settings.get(a, {}), settings.get(b, {})
        found |= dict.fromkeys(key for key in one if key in other and one[key] != other[key])
    return tuple(found)


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _of(design: Design, pair: LevelPair | ArmPair) -> Contrast:
    """The contrast of two levels or two arms; its role is not known yet."""
    if isinstance(pair, ArmPair):
        pairs: tuple[tuple[str, str], ...] = ((pair.arm, pair.against),)
        label = f"{pair.arm} against {pair.against}"
    else:
        pairs = tuple(factor_pairs(design.arms, pair.factor, pair.level, pair.against))
        label = f"{pair.factor} {pair.level} against {pair.against}"
    return Contrast(label, "", pairs, differing(design.settings, pairs))
