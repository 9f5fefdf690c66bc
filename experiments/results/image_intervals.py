"""Intervals over validation images: what the trained models would give on other images of the same kind.

On up to JACKKNIFE_LIMIT images the standard error is the jackknife's, since percentiles of a bootstrap of few images
are too narrow. Beyond, percentiles are right, and leaving out every image in turn would take too long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.results.bootstrap import CHUNK, MatchTable, bootstrap_ap, weighted_ap
from experiments.results.effects import Interval, t_interval

Array = npt.NDArray[np.float64]

JACKKNIFE_LIMIT = 1000  # images


@dataclass(frozen=True)
class ImageSamples:
    """AP (0..1, mean over an arm's seeds) of every arm on the validation images and on samples of them."""

    num_images: int
    observed: pd.Series  # by arm
    left_out: pd.DataFrame | None  # [N, arms] without one image each; None beyond JACKKNIFE_LIMIT images
    replicates: pd.DataFrame  # [B, arms] of `bootstrap_ap`


def sample_images(tables: Mapping[str, Sequence[MatchTable]], replicates: int, seed: int) -> ImageSamples:
    """Evaluate every arm on all images, without each of them, and on bootstrap samples of them.

    tables:  arm -> the match table of each of its seeds. ValueError unless all are of equally many images.
    """
    sizes = {len(table.image_ids) for given in tables.values() for table in given}
    if len(sizes) != 1:
        raise ValueError(f"match tables of {sorted(sizes)} images: all arms must be evaluated on the same ones")
    (num_images,) = sizes
    everyone = np.ones((1, num_images), dtype=int)
    left_out = None
    if num_images <= JACKKNIFE_LIMIT:
        left_out = pd.DataFrame(
            {arm: np.mean([left_out_ap(t) for t in given], axis=0) for arm, given in tables.items()}
        )
    return ImageSamples(
        num_images=num_images,
        observed=pd.Series({arm: np.mean([weighted_ap(t, everyone) for t in given]) for arm, given in tables.items()}),
        left_out=left_out,
        replicates=bootstrap_ap({}, tables, replicates, seed, resample_seeds=False),  # the tables hold the truth
    )


def left_out_ap(table: MatchTable) -> Array:
    """AP [N] on the other N - 1 images, for each image in turn."""
    num_images = len(table.image_ids)
    weights = 1 - np.eye(num_images, dtype=int)
    return np.concatenate([weighted_ap(table, weights[at : at + CHUNK]) for at in range(0, num_images, CHUNK)])


def jackknife_error(left_out: Array) -> float:
    """Standard error of a statistic from its values [N] without each image."""
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


def image_contrast(samples: ImageSamples, weights: Mapping[str, float], confidence: float = 0.95) -> Interval:
    """Weighted sum of the arms' AP with its interval over images; n is their number.

    Identical arms differ by exactly 0, with p 1. ValueError names arms that have no predictions.
    """
    if missing := sorted(set(weights) - set(samples.observed.index)):
        raise ValueError(f"no predictions of arms {missing}; there are those of {sorted(samples.observed.index)}")
    arms, shares = list(weights), np.array(list(weights.values()), dtype=float)
    estimate, n = float(samples.observed[arms].to_numpy() @ shares), samples.num_images
    if samples.left_out is not None:
        se = jackknife_error(samples.left_out[arms].to_numpy() @ shares)
        low, high, p_value = t_interval(estimate, se, n - 1, confidence)
        return Interval(estimate, low, high, n, se, n - 1, p_value)
    drawn = samples.replicates[arms].dropna().to_numpy() @ shares
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = 1 + min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p_value = min(1.0, 2 * tail / (len(drawn) + 1))
    return Interval(estimate, float(low), float(high), n, float(drawn.std(ddof=1)), np.inf, p_value)


def image_ap(samples: ImageSamples, arm: str, confidence: float = 0.95) -> tuple[Interval, float]:
    """AP of one arm corrected for its bias, with its interval over images, and the bias.

    AP on few images overstates AP elsewhere by about the bias, which the bootstrap repeats: mean of the replicates
    minus what was observed.
    """
    replicates = samples.replicates[arm].dropna()
    bias = float(replicates.mean() - samples.observed[arm])
    se = jackknife_error(samples.left_out[arm].to_numpy()) if samples.left_out is not None else float(replicates.std())
    estimate, df = float(samples.observed[arm]) - bias, samples.num_images - 1
    low, high, p_value = t_interval(estimate, se, df, confidence)
    return Interval(estimate, low, high, samples.num_images, se, df, p_value), bias


def seeds_and_images(seeds: Interval, images: Interval, confidence: float = 0.95) -> Interval:
    """Contrast with the interval of both sources of chance together, n that of the seeds.

    images:  of the mean over the same seeds

    What seeds and images do to each other is in both errors, so the interval is somewhat wide. An interval over seeds
    alone holds for these images only: with more seeds it covers the truth about other images less and less.
    """
    variance = seeds.se**2 + images.se**2
    se = float(np.sqrt(variance))
    if se == 0:
        return seeds
    df = variance**2 / (seeds.se**4 / seeds.df + images.se**4 / images.df)
    low, high, p_value = t_interval(seeds.estimate, se, df, confidence)
    return Interval(seeds.estimate, low, high, seeds.n, se, df, p_value)
