"""Words, contrasts, conditions and reasons on hand-made frames."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.results import conditions
from experiments.results.effects import Interval
from experiments.results.lengths import comparison
from experiments.results.reasons import reasons
from experiments.results.verdicts import (
    BETTER,
    EQUIVALENT,
    MIN_SEEDS,
    NOT_DISTINGUISHABLE,
    NOT_ENOUGH_SEEDS,
    WORSE,
    decide,
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
    return Interval((low + high) / 2, low, high, n, 0.01, n - 1, math.nan)


# words


@pytest.mark.parametrize(
    ("low", "high", "p_value", "word"),
    [
        (0.02, 0.05, 0.001, BETTER),
        (-0.05, -0.02, 0.001, WORSE),
        (-0.03, 0.02, 0.7, NOT_DISTINGUISHABLE),
        (-0.005, 0.009, 0.6, EQUIVALENT),
        (0.002, 0.009, 0.01, EQUIVALENT),  # beside 0, and yet within the margin
        (0.005, 0.03, 0.2, NOT_DISTINGUISHABLE),  # the interval excludes 0, but Holm's p does not
    ],
)
def test_words(low, high, p_value, word):
    assert decide(interval(low, high), p_value, margin=0.01) == word


@pytest.mark.parametrize("n", range(2, MIN_SEEDS))
def test_few_seeds_claim_nothing(n):
    assert decide(interval(0.02, 0.05, n), 0.001, 0.01) == NOT_ENOUGH_SEEDS
    assert decide(interval(-0.002, 0.005, n), 0.5, 0.01) == NOT_ENOUGH_SEEDS  # equivalence is a claim as well
    assert decide(interval(-0.02, 0.05, n), 0.5, 0.01) == NOT_DISTINGUISHABLE


@pytest.mark.parametrize("n", [0, 1])
def test_one_seed_or_none_is_not_enough(n):
    assert decide(interval(math.nan, math.nan, n), math.nan, 0.01) == NOT_ENOUGH_SEEDS


def test_the_needed_number_is_that_of_the_sign_flip_test():
    assert 2 / 2**MIN_SEEDS < 0.05 <= 2 / 2 ** (MIN_SEEDS - 1)


@pytest.mark.parametrize(("low", "high", "word"), [(0.2, 0.5, WORSE), (-0.5, -0.2, BETTER), (-0.01, 0.02, EQUIVALENT)])
def test_words_follow_the_metrics_direction(low, high, word):
    assert decide(interval(low, high), 0.001, margin=0.05, sign=-1) == word


def test_without_a_margin_nothing_is_equivalent():
    assert decide(interval(-1e-6, 1e-6), 0.7, margin=None) == NOT_DISTINGUISHABLE
    assert decide(interval(1e-7, 1e-6), 0.01, margin=None) == BETTER


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
    assert verdicts(old, runs({}), {}, NONE)[0].word == NOT_ENOUGH_SEEDS


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


def test_a_factors_difference_is_paired_by_seed_and_needs_all_its_arms():
    frame = runs(
        {
            "r=a,c=x": [0.1, 0.2, 0.3],
            "r=a,c=y": [0.2, 0.3, 0.4],
            "r=b,c=x": [0.5, 0.5, 0.5],
            "r=b,c=y": [0.8, 0.9, None],
        }
    )
    got = seed_difference(frame, contrasts(DESIGN)[0], AP)
    assert (got.n, got.estimate) == (2, pytest.approx(np.mean([0.2, 0.25])))
    assert seed_difference(frame[frame["arm"] != "r=b,c=y"], contrasts(DESIGN)[0], AP).n == 0


def test_a_verdict_says_difference_interval_and_reason():
    frame = runs({"r=a,c=x": [0.300, 0.310, 0.290], "r=a,c=y": [0.305, 0.309, 0.289]}, **{"train/clip_fraction": 1.0})
    arms = {name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}
    design = replace(DESIGN, arms=arms, factors={"r": ("a",), "c": ("x", "y")}, margin=0.5)
    (verdict,) = verdicts(design, frame, {}, NONE)
    assert verdict.text == (
        "c y against x: not distinguishable (difference +0.1 AP, interval −0.8 to +1.0, 3 seeds); reason: every step "
        "was clipped in both arms (100 %, 100 %), and AdamW cancels a constant scale"
    )


def test_an_interval_within_the_margin_needs_the_seeds_as_well():
    frame = runs({name: [0.300, 0.301, 0.302] for name in ARMS})
    assert "within the margin of 1, which takes 6 seeds to claim" in verdicts(DESIGN, frame, {}, NONE)[0].text


def test_one_seed_only_speaks_of_checkpoints_on_these_images():
    frame = runs({"r=a,c=x": [0.30], "r=a,c=y": [0.35]})
    design = replace(DESIGN, arms={name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}, seeds=(0,))
    drawn = pd.DataFrame({"r=a,c=x": np.full(100, 0.3), "r=a,c=y": np.linspace(0.32, 0.38, 100)})
    (verdict,) = verdicts(design, frame, {"val/AP": drawn}, NONE)
    assert verdict.word == NOT_ENOUGH_SEEDS
    assert "these two checkpoints differ on these images, interval over images +2.2 to +7.8" in verdict.text
    (verdict,) = verdicts(design, frame, {"val/AP": drawn.assign(**{"r=a,c=x": 0.34})}, NONE)
    assert "cannot be told apart on these images" in verdict.text


def test_missing_seeds_are_told():
    frame = runs({name: [0.3, 0.31, None] for name in ARMS})
    assert "2 seeds of 3 planned" in verdicts(DESIGN, frame, {}, NONE)[0].text
    assert "no seed has finished in all its arms" in verdicts(DESIGN, runs({}), {}, NONE)[0].text


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


def test_many_seeds_find_a_real_difference():
    better = runs(
        {name: [0.3 + 0.05 * (arm["c"] == "y") + 0.001 * s * s for s in range(8)] for name, arm in ARMS.items()}
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
    assert judged((LOSS,), 0.0)[0].word == NOT_DISTINGUISHABLE
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
