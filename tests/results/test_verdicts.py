"""Words, contrasts, conditions and reasons on hand-made frames."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from experiments.results import conditions, effects
from experiments.results.effects import Interval
from experiments.results.image_intervals import ImageSamples, seeds_and_images
from experiments.results.lengths import comparison
from experiments.results.reasons import reasons
from experiments.results.sequential import PriorSd, seeds_to_settle
from experiments.results.verdicts import (
    BETTER,
    EQUIVALENT,
    ONE_SEED,
    UNDECIDED,
    WORSE,
    decide,
    equivalence_p,
    seed_difference,
    verdicts,
)
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY, Contrast, contrasts
from experiments.schema.design import OPTIONAL, ArmPair, Design, LevelPair
from experiments.schema.metrics import AP, Metric

ARMS = {f"r={r},c={c}": {"r": r, "c": c} for r in "ab" for c in "xy"}
SETTINGS = {
    name: {"optim.lr": 1.0 if arm["r"] == "a" else 3.0, "optim.clip_norm": 0.1 if arm["c"] == "x" else 1.0}
    for name, arm in ARMS.items()
}
DESIGN = Design(
    name="small",
    question="?",
    design="factorial",
    factors={"r": ("a", "b"), "c": ("x", "y")},
    arms=ARMS,
    baseline="r=a,c=x",
    primary=LevelPair("c", "y", "x"),
    horizon="20 steps",
    seeds=(0, 1, 2),
    settings=SETTINGS,
)
CLIP = Contrast("c y against x", PRIMARY, (("r=a,c=y", "r=a,c=x"),), ("optim.clip_norm",))
NONE = pd.DataFrame(columns=["arm", "seed", "condition", "reason"])


def runs(values: dict[str, list[float]], **columns: float) -> pd.DataFrame:
    """One row a run; a value that is None was not run."""
    rows = [(arm, seed, v) for arm, row in values.items() for seed, v in enumerate(row) if v is not None]
    return pd.DataFrame(rows, columns=["arm", "seed", "val/AP"]).assign(**columns)


def interval(low: float, high: float, n: int = 8) -> Interval:
    """The t interval with these ends."""
    estimate, df = (low + high) / 2, n - 1.0
    se = (high - low) / 2 / stats.t.ppf(0.975, df)
    return Interval(estimate, low, high, n, se, df, 2 * stats.t.sf(abs(estimate) / se, df))


def word(difference: Interval, margin: float | None, planned: int = 2, p: float | None = None, sign: int = 1) -> str:
    given = difference.p_value if p is None else p
    return decide(difference, planned, given, equivalence_p(difference, margin), sign)


# words


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.02, 0.05, None, BETTER),
        (-0.05, -0.02, None, WORSE),
        (-0.03, 0.02, None, UNDECIDED),
        (-0.005, 0.009, None, EQUIVALENT),
        (0.002, 0.009, None, EQUIVALENT),  # beside 0, and yet within the margin
        (0.005, 0.03, 0.2, UNDECIDED),  # the interval excludes 0, but Holm's p does not
    ],
)
def test_words(low, high, p, expected, n):
    assert word(interval(low, high, n), 0.01, p=p) == expected


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(1, 30))
def test_equivalence_is_an_interval_within_the_margin(estimate, se, margin, df):
    half = stats.t.ppf(0.975, df) * se
    found = Interval(estimate, estimate - half, estimate + half, 3, se, df, math.nan)
    assume(abs(margin - abs(estimate) - half) > 1e-9)
    assert (equivalence_p(found, margin) < 0.05) == (-margin < found.low and found.high < margin)


def test_before_the_planned_number_of_seeds_words_are_provisional():
    assert word(interval(0.02, 0.05, 2), 0.01, planned=3) == "provisionally better"
    assert word(interval(0.02, 0.05, 2), 0.01, planned=3, sign=-1) == "provisionally worse"
    assert word(interval(0.002, 0.009, 2), 0.01, planned=3) == UNDECIDED  # equivalence is never provisional
    assert word(interval(-0.02, 0.05, 2), 0.01, planned=3) == UNDECIDED


def test_one_seed_has_a_word_of_its_own_and_none_is_undecided():
    one = Interval(0.3, math.nan, math.nan, 1, math.nan, math.nan, math.nan)
    assert word(one, 0.01, planned=1) == ONE_SEED
    assert word(replace(one, n=0), 0.01, planned=1) == UNDECIDED


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.2, 0.5, WORSE), (-0.5, -0.2, BETTER), (-0.01, 0.02, EQUIVALENT)]
)
def test_words_follow_the_metrics_direction(low, high, expected):
    assert word(interval(low, high), 0.05, sign=-1) == expected


def test_without_a_margin_nothing_is_equivalent():
    assert word(interval(-1e-6, 1e-6), None) == UNDECIDED
    assert word(interval(1e-7, 1e-6), None) == BETTER


# contrasts


def test_contrasts_and_their_roles():
    found = contrasts(DESIGN)
    assert [(c.label, c.role) for c in found] == [
        ("c y against x", PRIMARY),
        ("r b against a", SECONDARY),
        ("r=a,c=y against r=a,c=x", EXPLORATORY),
        ("r=b,c=x against r=a,c=x", EXPLORATORY),
        ("r=b,c=y against r=a,c=x", EXPLORATORY),
    ]
    assert found[0].pairs == (("r=a,c=y", "r=a,c=x"), ("r=b,c=y", "r=b,c=x"))
    assert found[0].changes == ("optim.clip_norm",)


def test_a_contrast_of_several_settings_names_all_of_them():
    confounded = contrasts(DESIGN)[-1]
    assert confounded.described.endswith("(changes optim.lr and optim.clip_norm at once)")
    assert "at once" not in contrasts(DESIGN)[0].described


def test_one_factor_and_listed_designs_compare_what_they_have():
    one = replace(DESIGN, arms={k: v for k, v in ARMS.items() if k != "r=b,c=y"}, primary=None)
    assert [(c.label, c.role) for c in contrasts(one)] == [("r b against a", PRIMARY), ("c y against x", SECONDARY)]
    two = replace(DESIGN, arms={k: ARMS[k] for k in ("r=a,c=x", "r=b,c=y")}, primary=None)
    assert [(c.label, c.role) for c in contrasts(two)] == [("r=b,c=y against r=a,c=x", PRIMARY)]
    assert contrasts(replace(DESIGN, arms={"single": {}}, factors={}, baseline="single", primary=None)) == []


def test_a_pair_of_arms_can_be_primary_and_is_not_repeated_backwards():
    given = replace(DESIGN, primary=ArmPair("r=a,c=x", "r=b,c=y"))
    found = contrasts(given)
    assert (found[0].label, found[0].role) == ("r=a,c=x against r=b,c=y", PRIMARY)
    assert "r=b,c=y against r=a,c=x" not in [c.label for c in found]


def test_a_design_that_was_stored_without_primary_and_settings_is_read():
    content = DESIGN.to_dict()
    old = Design.from_dict({key: content[key] for key in content.keys() - OPTIONAL.keys()})
    assert contrasts(old)[0].label == "r b against a"
    assert old.metrics == (AP,) and old.margin_of(AP) == 1.0
    assert verdicts(old, runs({}), {}, NONE)[0].word == UNDECIDED


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([(600, 4.8, 0.01), (600, 4.8, 0.01)], "equal steps (600), epochs (4.8) and fraction of the schedule (1 %)"),
        (
            [(600, 5.0, 0.01), (600, 5.0, 0.05)],
            "equal steps (600) and epochs (5), unequal fraction of the schedule (1 % to 5 %)",
        ),
        (
            [(500, 10, 0.1), (250, 10, 0.2)],
            "equal epochs (10), unequal steps (250 to 500) and fraction of the schedule",
        ),
        ([(5000, 50, 0.1), (1000, 10, 0.1)], "equal fraction of the schedule (10 %), unequal steps (1000 to 5000)"),
        ([(600, 4.8, 0.01)], "600 steps, 4.8 epochs, 1 % of the schedule"),
        ([(math.nan, math.nan, math.nan)], "lengths unknown"),
    ],
)
def test_comparison_names_what_is_equal(rows, text):
    assert comparison(pd.DataFrame(rows, columns=["steps", "epochs", "fraction"])).startswith(text)


# differences and sentences


def test_a_factors_difference_is_its_contrast_and_needs_all_its_arms():
    frame = runs(
        {
            "r=a,c=x": [0.1, 0.2, 0.3],
            "r=a,c=y": [0.2, 0.3, 0.4],
            "r=b,c=x": [0.5, 0.5, 0.5],
            "r=b,c=y": [0.8, 0.9, None],
        }
    )
    clip = contrasts(DESIGN)[0]
    assert clip.weights == {"r=a,c=y": 0.5, "r=a,c=x": -0.5, "r=b,c=y": 0.5, "r=b,c=x": -0.5}
    got = seed_difference(frame, clip, AP)
    assert (got.n, got.estimate) == (2, pytest.approx(np.mean([0.1, 0.35])))
    assert got == effects.contrast(frame, clip.weights, "val/AP")
    assert seed_difference(frame[frame["arm"] != "r=b,c=y"], clip, AP).n == 0


TWO = replace(
    DESIGN, arms={name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}, factors={"r": ("a",), "c": ("x", "y")}
)


def test_a_verdict_says_difference_interval_and_reason():
    frame = runs({"r=a,c=x": [0.300, 0.310, 0.290], "r=a,c=y": [0.305, 0.309, 0.289]}, **{"train/clip_fraction": 1.0})
    (verdict,) = verdicts(replace(TWO, margin=0.5), frame, {}, NONE)
    assert verdict.text == (
        "c y against x: undecided (difference +0.1 AP, interval −2.2 to +2.4, 3 seeds; about 816 seeds would "
        "settle a difference of this size, about 34 seeds would settle one of the margin); reason: every step was "
        "clipped in both arms (100 %, 100 %), and AdamW cancels a constant scale"
    )


def test_an_undecided_difference_says_what_it_takes():
    """The clip contrast of a study of three seeds: SD of the arms 7.3, 8.5, 1.7 and 2.4."""
    deviations = np.array([[1, -1, 0], [1, 1, -2], [-1, 0, 1], [0, 1, -1]]) / np.array([[1], [3**0.5], [1], [1]])
    values = np.array([[24.7], [27.6], [50.0], [48.6]]) + np.array([[7.3], [8.5], [1.7], [2.4]]) * deviations
    names = ("r=a,c=x", "r=a,c=y", "r=b,c=x", "r=b,c=y")
    frame = runs(dict(zip(names, (values / 100).tolist(), strict=True)), **{"progress/seconds": 60.0})
    verdict = verdicts(DESIGN, frame, {}, NONE)[0]
    seeds = seeds_to_settle(verdict.seeds, 0.01)
    assert 100 < seeds < 200 and verdict.word == UNDECIDED
    minutes = 4 * (seeds - 3)
    said = f"about {seeds} seeds ({minutes // 60} h {minutes % 60} min more) would settle one of the margin"
    assert said in verdict.text
    unknown = verdicts(DESIGN, frame.drop(columns="progress/seconds"), {}, NONE)[0]
    assert f"about {seeds} seeds would settle one of the margin" in unknown.text


def test_an_answer_that_takes_too_many_seeds_is_not_counted():
    frame = runs({"r=a,c=x": [0.30, 0.31, 0.29], "r=a,c=y": [0.301, 0.31, 0.29]})
    said = verdicts(replace(TWO, margin=5.0), frame, {}, NONE)[0].text
    assert "more than 1000 seeds would settle a difference of this size" not in said  # it is within the margin
    assert "more than 1000 seeds would settle a difference of this size" in verdicts(TWO, frame, {}, NONE)[0].text


def test_seeds_that_change_nothing_are_told():
    frame = runs({name: [0.3 + 0.1 * (arm["c"] == "y")] * 3 for name, arm in ARMS.items()})
    found = verdicts(DESIGN, frame, {}, NONE)[0]
    assert found.word == UNDECIDED and "all seeds gave the same result: does the seed reach the run?" in found.text


def images_of(difference: float, error: float) -> dict[str, ImageSamples]:
    """Samples of 100 images in which c=y is ahead by this much, with this jackknife error."""
    spread = np.where(np.arange(100) % 2, 1, -1) * error / np.sqrt(99)
    left_out = pd.DataFrame({"r=a,c=x": np.full(100, 0.3), "r=a,c=y": 0.3 + difference + spread})
    return {"val/AP": ImageSamples(100, left_out.mean(), left_out, left_out)}


def test_one_seed_says_how_far_seeds_would_have_to_scatter():
    frame = runs({"r=a,c=x": [0.30], "r=a,c=y": [0.35]})
    design = replace(TWO, seeds=(0,))
    (verdict,) = verdicts(design, frame, images_of(0.05, 0.01), NONE)
    assert verdict.word == ONE_SEED
    tipping = 5 / (1.96 * 2**0.5)
    assert verdict.text == (
        "c y against x: one seed (difference +5.0 AP, 1 seed; interval over images +3.0 to +7.0; "
        f"seeds alone would make this if the SD of AP between trainings were over {tipping:.1f} points)"
    )
    block = Contrast("recipe", PRIMARY, tuple((f"r=b,c={c}", f"r=a,c={c}") for c in "xy"))
    study = {name: [0.5 + 0.307 * (arm["r"] == "b")] for name, arm in ARMS.items()}
    recipe = next(
        v for v in verdicts(replace(DESIGN, seeds=(0,)), runs(study), {}, NONE) if v.contrast.pairs == block.pairs
    )
    assert "were over 15.7 points" in recipe.text


def test_earlier_runs_make_one_seed_provisional():
    frame = runs({"r=a,c=x": [0.30], "r=a,c=y": [0.40]})
    design = replace(TWO, seeds=(0,))
    prior = PriorSd(0.01, 8.0, 4.0)
    low, high = 0.1 - 2.7764 * 0.01 * math.sqrt(2), 0.1 + 2.7764 * 0.01 * math.sqrt(2)  # t of 4 df
    (verdict,) = verdicts(design, frame, {}, NONE, {"val/AP": prior})
    assert verdict.word == "provisionally better"
    assert (verdict.judged.low, verdict.judged.high) == pytest.approx((low, high), abs=1e-5)
    assert f"interval +{100 * low:.1f} to +{100 * high:.1f} if seeds scatter as in earlier runs" in verdict.text
    (wide,) = verdicts(design, frame, {}, NONE, {"val/AP": replace(prior, sd=0.1)})
    assert wide.word == ONE_SEED and "if seeds scatter as in earlier runs" in wide.text
    (unsure,) = verdicts(design, frame, {}, NONE, {"val/AP": replace(prior, df=1.0)})
    assert unsure.word == ONE_SEED and "earlier runs" not in unsure.text


def test_earlier_runs_do_not_count_at_the_planned_number_of_seeds():
    values = {"r=a,c=x": [0.30, 0.31, 0.29], "r=a,c=y": [0.32, 0.33, 0.28]}
    prior = {"val/AP": PriorSd(1e-4, 8.0, 8.0)}
    (planned,) = verdicts(TWO, runs(values), {}, NONE, prior)
    assert planned.word == UNDECIDED and planned.judged == planned.seeds
    more = replace(TWO, seeds=(0, 1, 2, 3))
    clipped = runs(values, **{"train/clip_fraction": 1.0})
    (early,) = verdicts(more, clipped, {}, NONE, prior)
    assert early.word == "provisionally better" and "; note: every step was clipped" in early.text


def test_better_is_on_these_images_unless_both_variances_say_so():
    frame = runs({"r=a,c=x": [0.300, 0.301, 0.299], "r=a,c=y": [0.350, 0.352, 0.348]})
    for images, claim in (
        (images_of(0.05, 0.002), "better"),
        (images_of(0.05, 0.05), "better on these images"),
        ({}, "better on these images"),  # nothing is known of other images
    ):
        (verdict,) = verdicts(TWO, frame, images, NONE)
        assert (verdict.word, verdict.claim) == (BETTER, claim) and f"against x: {claim} (" in verdict.text
    (wide,) = verdicts(TWO, frame, images_of(0.05, 0.05), NONE)
    assert wide.both == seeds_and_images(wide.seeds, wide.images)
    assert f"interval over seeds and images −{-100 * wide.both.low:.1f} to +{100 * wide.both.high:.1f}" in wide.text
    timed = frame.rename(columns={"val/AP": "progress/seconds"})
    (seconds,) = verdicts(replace(TWO, metrics=(Metric("seconds", "lower"),)), timed, {}, NONE)
    assert seconds.claim == WORSE  # images have no part in it


def test_missing_seeds_are_told():
    frame = runs({name: [0.3, 0.31, None] for name in ARMS})
    assert "2 seeds of 3 planned" in verdicts(DESIGN, frame, {}, NONE)[0].text
    assert "no seed has finished in all its arms" in verdicts(DESIGN, runs({}), {}, NONE)[0].text


def test_within_the_margin_before_the_planned_number_is_only_so_far():
    frame = runs({name: [0.3, 0.3001, 0.3, 0.3001] for name in ARMS})
    assert verdicts(replace(DESIGN, seeds=(0, 1, 2, 3)), frame, {}, NONE)[0].word == EQUIVALENT
    early = verdicts(replace(DESIGN, seeds=(0, 1, 2, 3, 4)), frame, {}, NONE)[0]
    assert early.word == UNDECIDED and "within the margin of 1 so far" in early.text


def test_secondary_contrasts_are_corrected_and_exploratory_ones_marked():
    rng = np.random.default_rng(0)
    factors = dict.fromkeys("pqs", ("a", "b"))
    arms = {f"p={p},q={q},s={s}": {"p": p, "q": q, "s": s} for p in "ab" for q in "ab" for s in "ab"}
    design = replace(DESIGN, arms=arms, factors=factors, baseline="p=a,q=a,s=a", primary=None, settings={})
    frame = runs({arm: list(0.3 + 0.004 * (v["q"] == "b") + 0.01 * rng.normal(size=8)) for arm, v in arms.items()})
    found = verdicts(replace(design, seeds=tuple(range(8))), frame, {}, NONE)
    secondary = [v for v in found if v.contrast.role == SECONDARY]
    raw = sorted(v.seeds.p_value for v in secondary)
    assert sorted(v.p_value for v in secondary) == pytest.approx([min(2 * raw[0], 1), max(2 * raw[0], raw[1])])
    assert found[0].p_value == found[0].seeds.p_value
    assert all("after Holm" in v.text for v in secondary)
    assert all("exploratory, not corrected" in v.text for v in found if v.contrast.role == EXPLORATORY)


def test_equivalence_of_secondary_contrasts_is_corrected_too():
    factors = dict.fromkeys("pqs", ("a", "b"))
    arms = {f"p={p},q={q},s={s}": {"p": p, "q": q, "s": s} for p in "ab" for q in "ab" for s in "ab"}
    design = replace(DESIGN, arms=arms, factors=factors, baseline="p=a,q=a,s=a", primary=None, settings={})
    frame = runs({arm: list(0.3 + 0.01 * np.random.default_rng(i).normal(size=3)) for i, arm in enumerate(arms)})
    reaches = {
        v.contrast.label: 100 * max(abs(v.seeds.low), abs(v.seeds.high))
        for v in verdicts(design, frame, {}, NONE)
        if v.contrast.role == SECONDARY
    }
    close, reach = min(reaches.items(), key=lambda item: item[1])

    def words_at(margin):
        found = verdicts(replace(design, margin=margin), frame, {}, NONE)
        return {v.word for v in found if v.contrast.label == close}

    assert words_at(1.01 * reach) == {UNDECIDED} and words_at(2 * reach) == {EQUIVALENT}


def test_many_seeds_find_a_real_difference():
    better = runs(
        {
            name: [0.3 + 0.05 * (arm["c"] == "y") + 0.001 * s * s + 1e-4 * ((i + s) % 3) for s in range(8)]
            for i, (name, arm) in enumerate(ARMS.items())
        }
    )
    found = verdicts(replace(DESIGN, seeds=tuple(range(8))), better, {}, NONE)
    assert found[0].word == BETTER and found[1].word == EQUIVALENT  # the other factor does nothing at all


# metrics

LOSS = Metric("val/loss", "lower")
KINDS = {  # metric -> how the first side differs from the second, and the sentence's difference
    "val/APS": (0.05, BETTER, "difference +5.0 APS, interval +4.9 to +5.1, 8 seeds"),
    "val/AP/cat": (-0.05, WORSE, "difference −5.0 AP of cat"),
    "val/AR100": (0.05, BETTER, "difference +5.0 AR100"),
    "val/loss": (-0.5, BETTER, "difference −0.50 val loss, interval −0.50 to −0.50, 8 seeds"),
    "train/loss": (0.5, WORSE, "difference +0.50 train loss"),
    "seconds": (60, WORSE, "difference +60.0 seconds"),
}


def judged(metrics: tuple[Metric, ...], change: float, seeds: int = 8, **given) -> list:
    """Verdicts on two arms that differ by `change` in all metrics, a thousandth more and less in every other seed."""
    arms = {name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}
    design = replace(DESIGN, arms=arms, seeds=tuple(range(seeds)), metrics=metrics, **given)
    frame = runs({"r=a,c=x": [0.4] * seeds, "r=a,c=y": [0.4 + change + 0.001 * (-1) ** s for s in range(seeds)]})
    values = frame.pop("val/AP")
    return verdicts(design, frame.assign(**{metric.column: values for metric in metrics}), {}, NONE)


@pytest.mark.parametrize("key", KINDS)
def test_any_metric_decides_in_its_direction_and_unit(key):
    change, word, text = KINDS[key]
    (verdict,) = judged((Metric.from_spec(key),), change)
    assert verdict.word == word and text in verdict.text


def test_a_diagnostic_decides_as_it_was_told():
    for better, word in (("higher", BETTER), ("lower", WORSE)):
        (verdict,) = judged((Metric("diagnostics/query_use", better),), 0.2)
        assert verdict.word == word and "+0.200 diagnostics query_use" in verdict.text


def test_a_loss_is_equivalent_only_within_a_margin_that_was_given():
    assert judged((LOSS,), 0.0)[0].word == UNDECIDED
    assert judged((LOSS,), 0.0, margin=0.1)[0].word == EQUIVALENT
    assert "margin 0.1" in judged((LOSS,), 0.0, margin=0.1)[0].text
    assert judged((AP,), 0.0)[0].word == EQUIVALENT


def test_a_metric_without_intervals_over_images_says_so():
    assert "val loss has no interval over images" in judged((LOSS,), 0.1, seeds=1)[0].text
    assert "over images" not in judged((Metric("val/APS"),), 0.1, seeds=1)[0].text  # it could have one


def test_several_primary_metrics_are_corrected_together():
    one, other = judged((AP, LOSS), 0.001)
    assert [one.metric, other.metric] == [AP, LOSS] and one.family == other.family == 2
    assert one.p_value == other.p_value == pytest.approx(2 * one.seeds.p_value)
    assert "after Holm" in one.text and "after Holm" not in judged((AP,), 0.001)[0].text


def test_only_a_metric_in_points_can_be_too_low_to_differ():
    (verdict,) = judged((Metric("val/APS"),), -0.4, seeds=2)
    assert not any("no run reaches" in reason for reason in verdict.reasons)
    (verdict,) = judged((Metric("val/APS"),), 0.0, seeds=2)
    low = runs({"r=a,c=y": [0.0], "r=a,c=x": [0.001]}).rename(columns={"val/AP": "val/APS"})
    assert reasons(CLIP, low, NONE, Metric("val/APS")) == [
        "no run reaches an APS of 0.5: they are too short to differ in it"
    ]
    assert reasons(CLIP, low.rename(columns={"val/APS": "val/loss"}), NONE, LOSS) == []


def test_values_that_are_not_finite_are_no_difference():
    frame = runs({"r=a,c=x": [1.0, 2.0, math.inf], "r=a,c=y": [2.0, 3.0, 4.0]}).rename(columns={"val/AP": "val/loss"})
    assert seed_difference(frame, CLIP, LOSS).n == 2


def test_a_metric_that_was_not_logged_is_named_with_what_there_is():
    said = conditions.not_logged([AP, Metric("val/foo")], {"val/AP", "val/loss", "train/loss"})
    assert said == "there is no val/foo; there is val/AP, val/loss"
    assert conditions.not_logged([AP], {"val/AP"}) == ""


# reasons


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ((1.0, 1.0), "every step was clipped in both arms (100 %, 100 %), and AdamW cancels a constant scale"),
        ((0.97, 1.0), "nearly every step was clipped in both arms (97 %, 100 %)"),
        ((0.0, 0.0), "no step was clipped in both arms (0 %, 0 %): the bound was never reached"),
        ((0.2, 1.0), "the bound was in effect to different degrees: share of clipped steps (20 %, 100 %)"),
        ((0.999, 1.0), "nearly every step was clipped in both arms (99.9 %, 100 %)"),
    ],
)
def test_clipping_as_a_reason(shares, text):
    frame = runs({"r=a,c=y": [0.3], "r=a,c=x": [0.3]}).assign(**{"train/clip_fraction": shares})
    assert reasons(CLIP, frame, NONE, AP)[0].startswith(text)


def test_clipping_is_no_reason_where_the_bound_did_not_change_or_is_not_known():
    frame = runs({"r=a,c=y": [0.3], "r=a,c=x": [0.3]}, **{"train/clip_fraction": 1.0})
    other = Contrast("r", SECONDARY, CLIP.pairs, ("optim.lr",))
    assert reasons(other, frame, NONE, AP) == []
    assert reasons(CLIP, frame.drop(columns="train/clip_fraction"), NONE, AP) == []


def test_conditions_lengths_signals_and_confounding_are_named():
    frame = runs({"r=a,c=y": [0.3, 0.3], "r=a,c=x": [0.3, 0.3]})
    frame["progress/step"] = [500, 500, 600, 600]
    frame["diagnostics/matching_instability"] = [4.0, 4.0, 1.0, 1.0]
    wrong = pd.DataFrame([("r=a,c=y", 1, "under-trained", "it falls"), ("r=b,c=y", 1, "diverged", "elsewhere")])
    wrong.columns = ["arm", "seed", "condition", "reason"]
    both = Contrast("c", PRIMARY, CLIP.pairs, ("optim.lr", "optim.clip_norm"))
    assert reasons(both, frame, wrong, AP) == [
        "optim.lr and optim.clip_norm change at once, so no single one of them is shown to be the cause",
        "the arms ran 500 and 600 steps",
        "under-trained: 1 of 4 runs (as r=a,c=y, seed 1: it falls)",
        "queries per image that changed their object between evaluations: 4 against 1",
    ]


def test_arms_that_detect_nothing_are_told_first():
    frame = runs({"r=a,c=y": [0.0], "r=a,c=x": [0.001]}, **{"train/clip_fraction": 1.0})
    assert reasons(CLIP, frame, NONE, AP)[0].startswith("no run reaches an AP of 0.5")


# conditions


def records(**columns: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({key.replace("__", "/"): values for key, values in columns.items()})
    return frame.assign(step=range(1, len(frame) + 1)) if "step" not in frame else frame


def test_divergence():
    falling = records(train__loss=list(np.linspace(20, 5, 40)))
    rising = records(train__loss=list(np.linspace(5, 20, 40)))
    assert conditions.diverged(falling) == ""
    assert "first tenth" in conditions.diverged(rising)
    assert conditions.diverged(falling, "NonFiniteLoss: step 3: nan").startswith("NonFiniteLoss")
    assert "inf" in conditions.diverged(records(train__loss=[3.0, 2.0, math.inf]))
    assert conditions.diverged(records(train__loss=[])) == ""


@pytest.mark.parametrize(
    ("losses", "is_under_trained"),
    [
        ([10, 9, 8, 7, 6], True),
        ([10, 8, 7, 6.9, 6.895], False),  # flat at the end
        ([10, 8, 6, 5, 6], False),  # it rose again
        ([10], False),
    ],
)
def test_under_training(losses, is_under_trained):
    steps = [100 * (i + 1) for i in range(len(losses))]
    frame = pd.DataFrame({"step": steps, "val/loss": [float(x) for x in losses]})
    assert bool(conditions.under_trained(frame)) == is_under_trained


def test_the_fall_is_per_tenth_of_the_run_whatever_the_number_of_evaluations():
    steps = np.arange(1, 101)
    every = pd.DataFrame({"step": steps, "val/loss": 20 - 0.1 * steps})
    few = every[every["step"] % 50 == 0]
    assert "9.1 % in a tenth" in conditions.under_trained(every)  # from 11 to 10
    assert "6.7 % in a tenth" in conditions.under_trained(few)  # from 15 to 10 in five tenths


def test_waiting_for_data():
    slow = records(train__wait_fraction=[0.9, 0.4, 0.4, 0.4])
    assert conditions.data_limited(slow).startswith("40 %")
    assert conditions.data_limited(records(train__wait_fraction=[0.9, 0.0, 0.1])) == ""  # the first starts the loaders
    assert conditions.data_limited(records(train__data_time=[9, 1, 1], train__step_time=[9, 2, 2])).startswith("50 %")
    assert conditions.data_limited(records(train__loss=[1.0])) == ""


def test_collapse():
    key = conditions.VARIANCE_KEY
    assert conditions.collapsed(pd.DataFrame({key: [0.5, 0.001]})) != ""
    assert conditions.collapsed(pd.DataFrame({key: [0.001, 0.5]})) == ""
    assert conditions.collapsed(pd.DataFrame({"step": [1]})) == ""
    rng = np.random.default_rng(0)
    sizes = dict.fromkeys(range(8), (100, 80))
    queries = rng.uniform(10, 40, (5, 4))
    same = [{"image_id": i, "bbox": q + rng.normal(0, 0.2, 4)} for i in sizes for q in queries]
    other = [{"image_id": i, "bbox": rng.uniform(10, 40, 4)} for i in sizes for _ in queries]
    assert "from image to image" in conditions.collapsed_boxes(same, sizes)
    assert conditions.collapsed_boxes(other, sizes) == ""
    assert conditions.collapsed_boxes(same[:7], sizes) == "" and conditions.collapsed_boxes([], sizes) == ""
