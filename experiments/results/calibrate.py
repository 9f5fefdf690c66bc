"""Long checks of the statistics by simulation: `make calibrate` writes their table to docs/calibration.md.

Each figure has bounds that it has to keep. Seeds are fixed, so the table changes only with the code.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import integrate, special, stats

from experiments.results import sequential, trust
from experiments.results.bootstrap import MatchTable, match, weighted_ap
from experiments.results.effects import Interval, contrast_statistics
from experiments.results.image_intervals import image_ap, image_contrast, sample_images, seeds_and_images

Array = npt.NDArray[np.float64]

TABLE = Path(__file__).parents[2] / "docs/calibration.md"
# Arms of a 2 x 2: the first recipe with both clips, then the second.
CONTRASTS = {
    "recipe": np.array([0.5, 0.5, -0.5, -0.5]),
    "clip": np.array([0.5, -0.5, 0.5, -0.5]),
    "two arms": np.array([1.0, 0.0, -1.0, 0.0]),
}
EQUAL, FOUR_TO_ONE = (1.0, 1.0, 1.0, 1.0), (4.0, 4.0, 1.0, 1.0)
MEASURED = (7.3, 8.5, 1.7, 2.4)  # SDs over seeds of the built-in ablation's arms, in AP points
CAP = 8  # seeds


@dataclass(frozen=True)
class Figure:
    """A simulated figure and the bounds that it has to keep."""

    check: str
    setting: str
    found: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether it lies within its bounds."""
        return self.low <= self.found <= self.high


# Seeds


def runs(
    rng: np.random.Generator,
    shape: tuple[int, int],
    sds: tuple[float, ...] = EQUAL,
    rho: float = 0.0,
    effect: Array | float = 0.0,
) -> Array:
    """Normal runs [sets, seeds, 4 arms] of a 2 x 2 with `effect` [4] in units of the root mean square SD.

    sds:  of the arms, up to a factor. rho is the correlation of a seed's runs within a recipe.
    """
    own, shared = rng.normal(size=(*shape, 4)), rng.normal(size=(*shape, 2)).repeat(2, axis=-1)
    scale = np.array(sds) / np.sqrt(np.mean(np.square(sds)))
    return np.asarray(effect + scale * (np.sqrt(1 - rho) * own + np.sqrt(rho) * shared))


def effect_of(weights: Array, size: float) -> Array:
    """Means [C] of the arms for which the contrast is `size`."""
    return np.asarray(size * weights / (weights @ weights))


def p_values(values: Array, weights: Array) -> tuple[Array, Array]:
    """Estimates and p values [sets] of a contrast of values [sets, S, C]."""
    estimate, se, df, _ = contrast_statistics(values, weights)
    return estimate, 2 * special.stdtr(df, -np.abs(estimate) / se)


def rejected(values: Array, weights: Array) -> float:
    """Percentage of sets in which the rule finds a difference."""
    return float(100 * np.mean(p_values(values, weights)[1] < sequential.LEVEL))


@dataclass(frozen=True)
class Stopped:
    """How `seeds=auto` ended, over many ablations, in percent."""

    decided: float
    negative: float  # decided for the wrong sign where the effect is positive
    mean_seeds: float


def stopped(values: Array, weights: Array) -> Stopped:
    """Look after every block of values [sets, cap, C], and stop at the first p value below its level."""
    num_sets, cap, _ = values.shape
    going, negative, seeds = np.ones(num_sets, bool), np.zeros(num_sets, bool), np.full(num_sets, cap)
    for n, level in sequential.levels(cap).items():
        estimate, p = p_values(values[:, :n], weights)
        stops = going & (p < level)
        seeds[stops] = n
        negative |= stops & (estimate < 0)
        going &= ~stops
    return Stopped(100 * float(np.mean(~going)), 100 * float(negative.mean()), float(seeds.mean()))


def fixed_seeds(sets: int = 4000) -> Iterator[Figure]:
    """Type I errors and power of the rule at a number of seeds that was fixed before."""
    rng = np.random.default_rng(0)
    for num_seeds in (2, 3, 4, 8):
        for name, weights in CONTRASTS.items():
            for noise, sds, rho, high in (
                ("equal SDs", EQUAL, 0.0, 6.0),
                ("measured SDs", MEASURED, 0.0, 6.0),
                ("measured SDs, rho 0.5 in a recipe", MEASURED, 0.5, 8.0),
            ):
                found = rejected(runs(rng, (sets, num_seeds), sds, rho), weights)
                low = 0.5 if rho == 0 else 0.0
                yield Figure("false claims, %", f"{name}, {num_seeds} seeds, {noise}", found, low, high)
    for name, num_seeds, low in (("recipe", 3, 98.0), ("two arms", 3, 87.0), ("two arms", 4, 99.0)):
        weights = CONTRASTS[name]
        found = rejected(runs(rng, (sets, num_seeds), effect=effect_of(weights, 5.0)), weights)
        yield Figure("power at 5 SD, %", f"{name}, {num_seeds} seeds", found, low, 100.0)


def automatic_seeds(sets: int = 6000) -> Iterator[Figure]:
    """False claims, power and cost of looking after every block up to a cap of 8 seeds."""
    rng = np.random.default_rng(1)
    for name, weights in CONTRASTS.items():
        for noise, sds in (("equal SDs", EQUAL), ("4:1", FOUR_TO_ONE)):
            found = stopped(runs(rng, (sets, CAP), sds), weights)
            yield Figure("auto: false claims, %", f"{name}, {noise}", found.decided, 0.0, 6.0)
            found = stopped(runs(rng, (sets, CAP), sds, effect=effect_of(weights, 0.5)), weights)
            yield Figure("auto: wrong sign at 0.5 SD, %", f"{name}, {noise}", found.negative, 0.0, 0.6)
    weights = CONTRASTS["recipe"]
    for noise, sds in (("equal SDs", EQUAL), ("4:1", FOUR_TO_ONE)):
        at_two, at_five = (stopped(runs(rng, (sets, CAP), sds, effect=effect_of(weights, e)), weights) for e in (2, 5))
        yield Figure("auto: decided at 2 SD, %", f"recipe, {noise}", at_two.decided, 97.0, 100.0)
        yield Figure("auto: mean seeds at 2 SD", f"recipe, {noise}", at_two.mean_seeds, 2.0, 5.0)
        yield Figure("auto: mean seeds at 5 SD", f"recipe, {noise}", at_five.mean_seeds, 2.0, 3.4)


def looks(paths: int = 400_000) -> Iterator[Figure]:
    """Levels of the looks found again from one-sample t paths, and the false claims that they make there."""
    rng = np.random.default_rng(2)
    for cap in (4, 6, 8, 12):
        p = one_sample_p(rng.normal(size=(paths, cap)))
        apart = max(
            abs(found / level - 1) for found, level in zip(spent(p), sequential.levels(cap).values(), strict=True)
        )
        yield Figure("levels from paths, largest relative difference", f"cap {cap}", apart, 0.0, 0.1)
        claims = float(np.mean((p < np.array(list(sequential.levels(cap).values()))).any(axis=1)))
        yield Figure("false claims over all looks", f"one-sample t, cap {cap}", claims, 0.048, 0.052)
        for count in (2, 8):  # Holm's first step claims where one of these is below LEVEL
            first = p * (sequential.HOLM_SAFETY * count) < np.array(list(sequential.levels(cap).values()))
            claims = float(count * np.mean(first.any(axis=1)))
            yield Figure("Holm over all looks", f"{count} contrasts, cap {cap}", claims, 0.0, 0.052)


def one_sample_p(values: Array) -> Array:
    """Two-sided p values [paths, cap - 1] of the first 2 .. cap of values [paths, cap]."""
    n = np.arange(1, values.shape[1] + 1)
    total, squares = values.cumsum(axis=1), (values**2).cumsum(axis=1)
    n, total, squares = n[1:], total[:, 1:], squares[:, 1:]
    t = total / np.sqrt(n * (squares - total**2 / n) / (n - 1))
    return np.asarray(2 * special.stdtr(n - 1, -np.abs(t)))


def spent(p: Array) -> list[float]:
    """Levels at which paths of p values [paths, cap - 1] spend LEVEL * (n / cap)^2 by look n."""
    paths, cap, found = len(p), p.shape[1] + 1, []
    for n in range(2, cap + 1):
        due = round(paths * sequential.LEVEL * (n / cap) ** 2) - (paths - len(p))
        found.append(float(np.sort(p[:, 0])[due - 1 : due + 1].mean()))
        p = p[p[:, 0] >= found[-1], 1:]
    return found


def e_values(sets: int = 200_000) -> Iterator[Figure]:
    """Mean of the e-value under no difference, and how often it ever claims one."""
    apart = max(abs(e_value_integral(df) - 1) for df in range(1, 31))
    yield Figure("e-value: mean under no difference, difference from 1", "1 to 30 df, by quadrature", apart, 0.0, 1e-6)
    rng, weights = np.random.default_rng(3), CONTRASTS["recipe"]
    values = runs(rng, (sets, CAP))
    pooled, by_rule = np.zeros(sets, bool), np.zeros(sets, bool)
    e_value = np.vectorize(sequential.e_value)
    for n in range(2, CAP + 1):
        estimate, se, df, _ = contrast_statistics(values[:, :n], weights)
        v = sequential.variance_factor(weights, n)
        pooled_se = np.sqrt(v * values[:, :n].var(axis=1, ddof=1).mean(axis=-1))
        pooled |= e_value(estimate / pooled_se, 4 * (n - 1), v) * sequential.LEVEL >= 1
        by_rule |= e_value(estimate / se, df, v) * sequential.LEVEL >= 1
    yield Figure("e-value: ever 20 or more by 8 seeds, %", "recipe, pooled df", float(100 * pooled.mean()), 0.0, 2.5)
    yield Figure("e-value: ever 20 or more by 8 seeds, %", "recipe, the rule", float(100 * by_rule.mean()), 0.0, 2.5)


def e_value_integral(df: int, v: float = 0.25) -> float:
    """Mean of the e-value over the t distribution; its tail is too heavy for a simulation."""
    root = math.sqrt(v / (v + sequential.TAU**2))

    def scaled(u: float) -> float:  # t = u / root spreads the tail over the range of u
        return float(sequential.e_value(u / root, df, v) * stats.t.pdf(u / root, df) / root)

    return float(2 * integrate.quad(scaled, 0, math.inf, epsabs=1e-10, epsrel=1e-10, limit=200)[0])


# Sweeps


def sweep_ranks(sets: int = 500) -> Iterator[Figure]:
    """Coverage and width of the regression's tau from the top four, the 16th and the last of 24."""
    rng, chosen = np.random.default_rng(4), [0, 1, 2, 3, 15, 23]
    for tau in (0.0, 0.33, 0.6):
        rho = math.sin(math.pi * tau / 2)
        found = []
        for _ in range(sets):
            short = np.sort(rng.normal(size=24))[::-1]
            long = rho * short + math.sqrt(1 - rho**2) * rng.normal(size=24)
            found.append(trust.regression_tau(short[chosen].tolist(), long[chosen].tolist(), short.tolist()))
        _, low, high = np.transpose(found)
        covered = float(100 * np.mean((low <= tau) & (tau <= high)))
        yield Figure("regression tau: coverage, %", f"tau {tau}, 6 of 24", covered, 88.0, 97.0)
        yield Figure("regression tau: mean width", f"tau {tau}, 6 of 24", float(np.mean(high - low)), 0.0, 0.7)


# Images


def scenes(rng: np.random.Generator, num_images: int) -> tuple[MatchTable, MatchTable]:
    """Two arms' detections of the same scenes like those of the built-in set: 1 to 3 objects of 3 classes.

    Both miss and misplace hard objects; the second places boxes less well.
    """
    truth: list[dict[str, object]] = []
    found: tuple[list[dict[str, object]], ...] = ([], [])
    for image in range(num_images):
        for _ in range(rng.integers(1, 4)):
            label, box = int(rng.integers(3)), np.concatenate([rng.uniform(0, 30, 2), rng.uniform(11, 40, 2)])
            truth.append({"image_id": image, "category_id": label, "bbox": box.tolist()})
            hardness = rng.gamma(2)
            for detections, noise in zip(found, (0.05, 0.065), strict=True):
                if rng.random() < 0.05 * hardness:
                    continue
                placed = box + noise * hardness * rng.normal(size=4) * np.tile(box[2:], 2)
                taken_for = label if rng.random() < 0.9 else int(rng.integers(3))
                detections.append(_detection(image, taken_for, placed, 1 / (1 + hardness * rng.uniform(0.2, 2))))
        for detections in found:
            for _ in range(rng.poisson(1.5)):
                clutter = np.concatenate([rng.uniform(0, 40, 2), rng.uniform(8, 30, 2)])
                detections.append(_detection(image, int(rng.integers(3)), clutter, rng.beta(1.2, 3)))
    annotations = {
        "images": [{"id": n} for n in range(num_images)],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(3)],
        "annotations": [{**one, "id": n} for n, one in enumerate(truth, 1)],
    }
    first, second = (match(annotations, detections) for detections in found)
    return first, second


def _detection(image: int, label: int, box: Array, score: float) -> dict[str, object]:
    return {"image_id": image, "category_id": label, "bbox": [*box[:2].tolist(), *box[2:].clip(1).tolist()],
            "score": float(score)}  # fmt: skip


def images(sets: int = 500, num_images: int = 100, population: int = 10_000) -> Iterator[Figure]:
    """Coverage of the intervals over images for a difference and for one arm, on sets drawn from a population."""
    rng = np.random.default_rng(5)
    everyone = np.ones((1, population), dtype=int)
    better, worse = (float(weighted_ap(table, everyone)[0]) for table in scenes(rng, population))
    difference, one_arm = [], []
    for n in range(sets):
        first, second = scenes(rng, num_images)
        samples = sample_images({"better": [first], "worse": [second]}, replicates=256, seed=n)
        difference.append(holds(image_contrast(samples, {"better": 1, "worse": -1}), better - worse))
        one_arm.append(holds(image_ap(samples, "better")[0], better))
    setting = f"{num_images} images, 3 classes"
    yield Figure(
        "interval over images: coverage, %", f"difference, {setting}", 100 * float(np.mean(difference)), 92, 98
    )
    yield Figure("interval over images: coverage, %", f"one arm, {setting}", 100 * float(np.mean(one_arm)), 91, 98)


def holds(interval: Interval, truth: float) -> bool:
    """Whether the interval contains the truth."""
    return interval.low <= truth <= interval.high


def both(sets: int = 4000, num_images: int = 300) -> Iterator[Figure]:
    """Coverage of the interval of seeds and images together, by the SD over seeds and the error over images."""
    rng = np.random.default_rng(6)
    for sd, error in ((1.0, 0.7), (1.0, 1.3), (3.0, 1.0), (6.0, 1.3)):
        for num_seeds in (3, 6, 12):
            seeds = sd * np.sqrt(rng.chisquare(num_seeds - 1, sets) / (num_seeds - 1) / num_seeds)
            over_images = error * np.sqrt(rng.chisquare(num_images - 1, sets) / (num_images - 1))
            estimates = rng.normal(0, math.hypot(sd / math.sqrt(num_seeds), error), sets)
            covered = [
                holds(seeds_and_images(_interval(at, se, num_seeds), _interval(at, image_se, num_images)), 0.0)
                for at, se, image_se in zip(estimates.tolist(), seeds.tolist(), over_images.tolist(), strict=True)
            ]
            setting = f"SD over seeds {sd}, error over images {error}, {num_seeds} seeds"
            yield Figure("seeds and images: coverage, %", setting, 100 * float(np.mean(covered)), 92.0, 98.0)


def _interval(estimate: float, se: float, n: int) -> Interval:
    return Interval(estimate, math.nan, math.nan, n, se, n - 1, math.nan)


# Table


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    kept = sum(figure.holds for figure in figures)
    rows = [
        f"| {f.check} | {f.setting} | {f.found:.3g} | {f.low:g} to {f.high:g}{'' if f.holds else ' **missed**'} |"
        for f in figures
    ]
    head = [
        "# Calibration of the statistics",
        "",
        f"Written by `make calibrate`: {kept} of {len(figures)} simulated figures are within their bounds.",
        "",
        "| check | setting | found | bounds |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def main() -> int:
    """Simulate all figures and write their table; 1 if one misses its bounds."""
    parts = (fixed_seeds, automatic_seeds, looks, e_values, sweep_ranks, images, both)
    figures = [figure for part in parts for figure in part()]
    TABLE.write_text(table(figures))
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
