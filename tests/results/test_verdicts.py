"""Words, contrasts, conditions and reasons on hand-made frames."""

import math

import numpy as np
import pandas as pd
import pytest

from experiments.results import conditions
from experiments.results.audit import audit_row
from experiments.results.effects import Interval
from experiments.results.reasons import reasons
from experiments.results.verdicts import (
    BETTER,
    EQUIVALENT,
    MIN_SEEDS,
    NOT_DISTINGUISHABLE,
    NOT_ENOUGH_SEEDS,
    WORSE,
    decide,
    points,
    seed_difference,
    verdicts,
)
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY, Contrast, comparison, contrasts

ARMS = {f"r={r},c={c}": {"r": r, "c": c} for r in "ab" for c in "xy"}
SETTINGS = {
    name: {"optim.lr": 1.0 if arm["r"] == "a" else 3.0, "optim.clip_norm": 0.1 if arm["c"] == "x" else 1.0}
    for name, arm in ARMS.items()
}
DESIGN = {
    "arms": ARMS,
    "factors": {"r": ["a", "b"], "c": ["x", "y"]},
    "baseline": "r=a,c=x",
    "primary": {"factor": "c", "level": "y", "against": "x"},
    "settings": SETTINGS,
    "seeds": [0, 1, 2],
    "margin": 1.0,
}
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


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.2"), (-0.006, "−0.6"), (0.0001, "0.0"), (-0.0001, "0.0"), (0.1, "+10.0")]
)
def test_points(value, text):
    assert points(value) == text


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
    one = DESIGN | {"arms": {k: v for k, v in ARMS.items() if k != "r=b,c=y"}, "primary": None}
    assert [(c.label, c.role) for c in contrasts(one)] == [("r b against a", PRIMARY), ("c y against x", SECONDARY)]
    two = DESIGN | {"arms": {k: ARMS[k] for k in ("r=a,c=x", "r=b,c=y")}, "primary": None}
    assert [(c.label, c.role) for c in contrasts(two)] == [("r=b,c=y against r=a,c=x", PRIMARY)]
    assert contrasts(DESIGN | {"arms": {"single": {}}, "factors": {}, "baseline": "single", "primary": None}) == []


def test_a_pair_of_arms_can_be_primary_and_is_not_repeated_backwards():
    given = DESIGN | {"primary": {"arm": "r=a,c=x", "against": "r=b,c=y"}}
    found = contrasts(given)
    assert (found[0].label, found[0].role) == ("r=a,c=x against r=b,c=y", PRIMARY)
    assert "r=b,c=y against r=a,c=x" not in [c.label for c in found]


def test_a_design_that_was_stored_without_primary_and_settings_is_read():
    old = {key: DESIGN[key] for key in ("arms", "factors", "baseline", "seeds")}
    assert contrasts(old)[0].label == "r b against a"
    assert verdicts(old, runs({}), pd.DataFrame(), NONE)[0].word == NOT_ENOUGH_SEEDS


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
    got = seed_difference(frame, contrasts(DESIGN)[0])
    assert (got.n, got.estimate) == (2, pytest.approx(np.mean([0.2, 0.25])))
    assert seed_difference(frame[frame["arm"] != "r=b,c=y"], contrasts(DESIGN)[0]).n == 0


def test_a_verdict_says_difference_interval_and_reason():
    frame = runs({"r=a,c=x": [0.300, 0.310, 0.290], "r=a,c=y": [0.305, 0.309, 0.289]}, **{"train/clip_fraction": 1.0})
    arms = {name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}
    design = DESIGN | {"arms": arms, "factors": {"r": ["a"], "c": ["x", "y"]}, "margin": 0.5}
    (verdict,) = verdicts(design, frame, pd.DataFrame(), NONE)
    assert verdict.text == (
        "c y against x: not distinguishable (difference +0.1 AP, interval −0.8 to +1.0, 3 seeds); reason: every step "
        "was clipped in both arms (100 %, 100 %), and AdamW cancels a constant scale"
    )


def test_an_interval_within_the_margin_needs_the_seeds_as_well():
    frame = runs({name: [0.300, 0.301, 0.302] for name in ARMS})
    assert (
        "within the margin of 1, which takes 6 seeds to claim" in verdicts(DESIGN, frame, pd.DataFrame(), NONE)[0].text
    )


def test_one_seed_only_speaks_of_checkpoints_on_these_images():
    frame = runs({"r=a,c=x": [0.30], "r=a,c=y": [0.35]})
    design = DESIGN | {"arms": {name: ARMS[name] for name in ("r=a,c=x", "r=a,c=y")}, "seeds": [0]}
    drawn = pd.DataFrame({"r=a,c=x": np.full(100, 0.3), "r=a,c=y": np.linspace(0.32, 0.38, 100)})
    (verdict,) = verdicts(design, frame, drawn, NONE)
    assert verdict.word == NOT_ENOUGH_SEEDS
    assert "these two checkpoints differ on these images, interval over images +2.2 to +7.8" in verdict.text
    (verdict,) = verdicts(design, frame, drawn.assign(**{"r=a,c=x": 0.34}), NONE)
    assert "cannot be told apart on these images" in verdict.text


def test_missing_seeds_are_told():
    frame = runs({name: [0.3, 0.31, None] for name in ARMS})
    assert "2 seeds of 3 planned" in verdicts(DESIGN, frame, pd.DataFrame(), NONE)[0].text
    assert "no seed has finished in all its arms" in verdicts(DESIGN, runs({}), pd.DataFrame(), NONE)[0].text


def test_secondary_contrasts_are_corrected_and_exploratory_ones_marked():
    rng = np.random.default_rng(0)
    factors = {name: ["a", "b"] for name in "pqs"}
    arms = {f"p={p},q={q},s={s}": {"p": p, "q": q, "s": s} for p in "ab" for q in "ab" for s in "ab"}
    design = DESIGN | {"arms": arms, "factors": factors, "baseline": "p=a,q=a,s=a", "primary": None, "settings": {}}
    frame = runs({arm: list(0.3 + 0.004 * (v["q"] == "b") + 0.01 * rng.normal(size=8)) for arm, v in arms.items()})
    found = verdicts(design | {"seeds": list(range(8))}, frame, pd.DataFrame(), NONE)
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
    found = verdicts(
        DESIGN | {"seeds": list(range(8))}, better.assign(**{"val/AP": better["val/AP"]}), pd.DataFrame(), NONE
    )
    assert found[0].word == BETTER and found[1].word == EQUIVALENT  # the other factor does nothing at all


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
    assert reasons(CLIP, frame, NONE)[0].startswith(text)


def test_clipping_is_no_reason_where_the_bound_did_not_change_or_is_not_known():
    frame = runs({"r=a,c=y": [0.3], "r=a,c=x": [0.3]}, **{"train/clip_fraction": 1.0})
    other = Contrast("r", SECONDARY, CLIP.pairs, ("optim.lr",))
    assert reasons(other, frame, NONE) == []
    assert reasons(CLIP, frame.drop(columns="train/clip_fraction"), NONE) == []


def test_conditions_lengths_signals_and_confounding_are_named():
    frame = runs({"r=a,c=y": [0.3, 0.3], "r=a,c=x": [0.3, 0.3]})
    frame["progress/step"] = [500, 500, 600, 600]
    frame["diagnostics/matching_instability"] = [4.0, 4.0, 1.0, 1.0]
    wrong = pd.DataFrame([("r=a,c=y", 1, "under-trained", "it falls"), ("r=b,c=y", 1, "diverged", "elsewhere")])
    wrong.columns = ["arm", "seed", "condition", "reason"]
    both = Contrast("c", PRIMARY, CLIP.pairs, ("optim.lr", "optim.clip_norm"))
    assert reasons(both, frame, wrong) == [
        "optim.lr and optim.clip_norm change at once, so no single one of them is shown to be the cause",
        "the arms ran 500 and 600 steps",
        "under-trained: 1 of 4 runs (as r=a,c=y, seed 1: it falls)",
        "queries per image that changed their object between evaluations: 4 against 1",
    ]


def test_arms_that_detect_nothing_are_told_first():
    frame = runs({"r=a,c=y": [0.0], "r=a,c=x": [0.001]}, **{"train/clip_fraction": 1.0})
    assert reasons(CLIP, frame, NONE)[0].startswith("no run reaches an AP of 0.5")


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


def test_audit_of_rows():
    official = {"AP": 0.420, "AP50": 0.624, "AP75": 0.442, "APS": 0.205, "APM": 0.458, "APL": 0.611}
    study = {"AP": 0.1667, "AP50": 0.3082, "AP75": 0.1603, "APS": 0.01186, "APM": 0.0748, "APL": 0.2429}
    assert audit_row(official, is_coco=True) == []
    assert audit_row(study, is_coco=True) == ["AP 16.7, but its size strata give 10.4"]
    assert audit_row(study) == []
    assert audit_row({"AP": 0.5, "AP50": 0.4}) == ["AP 50.0 exceeds AP50 40.0"]
    assert audit_row({"AP50": 0.4, "AP75": 0.5}) == ["AP75 50.0 exceeds AP50 40.0"]
    assert "not between 13.0 and 45.0" in audit_row({"AP": 0.1, "AP50": 0.8, "AP75": 0.1})[0]
    assert audit_row({"AP": 42.0}) == ["AP is 42, outside 0..1"]
    assert audit_row({"AP": 0.3, "APS": math.nan, "APM": -1.0}) == []
