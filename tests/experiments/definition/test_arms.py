"""Designs become arms and runs; wrong values become one sentence."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest

from detr.config import RunConfig
from detr.errors import InputError
from experiments.definition.arms import data_fingerprint, differs, expand, plan, varied
from experiments.definition.compose import options
from experiments.definition.planning import (
    ASSUMED_SD,
    Cost,
    arm_sds,
    cost_key,
    half_width,
    lengths,
    measurable,
    resolution,
    seed_sd,
    seeds_needed,
)
from experiments.results.lengths import comparison
from experiments.results.sequential import prior_sd
from experiments.schema.contrasts import contrasts
from experiments.schema.design import ArmPair, Design, LevelPair
from experiments.schema.metrics import AP

STEPS = "ablation=recipe_steps"
FACTORS = {"lr", "norm", "schedule", "clip"}
BASELINE = {"lr": "1e-4", "norm": "post", "schedule": "step", "clip": "0.1"}


@pytest.mark.parametrize("name", options("ablation"))
def test_every_ablation_of_the_repository_can_be_planned(name):
    ablation = plan([f"ablation={name}"])
    assert ablation.design.baseline in [arm.name for arm in ablation.arms]
    assert ablation.design.primary or len(ablation.arms) == 1


def test_a_factorial_has_every_combination():
    ablation = plan(["ablation=recipe_factorial"])
    assert len({arm.name for arm in ablation.arms}) == 16
    assert ablation.arms[0].name == ablation.design.baseline and ablation.arms[0].levels == BASELINE


def test_one_factor_at_a_time_from_the_baseline():
    arms = plan([STEPS]).arms
    changed = [{name for name in FACTORS if arm.levels[name] != BASELINE[name]} for arm in arms]
    assert changed[0] == set() and sorted(map(sorted, changed[1:])) == [["clip"], ["lr"], ["norm"], ["schedule"]]


def test_one_factor_at_a_time_from_the_opposite_endpoint():
    ablation = plan([STEPS, "ablation.from=opposite"])
    start, *others = ablation.arms
    assert ablation.design.baseline == start.name
    assert not any(start.levels[name] == BASELINE[name] for name in FACTORS)
    kept = [{name for name in FACTORS if arm.levels[name] == BASELINE[name]} for arm in others]
    assert sorted(map(sorted, kept)) == [["clip"], ["lr"], ["norm"], ["schedule"]]


def test_every_level_of_a_factor_is_one_step():
    given = [
        "ablation.design=one_factor",
        "+ablation.factors.lr={a: ['optim.lr=1'], b: ['optim.lr=2'], c: ['optim.lr=3']}",
        "+ablation.factors.clip={x: ['optim.clip_norm=1']}",
        "+ablation.baseline={lr: b, clip: x}",
    ]
    ablation = plan(given)
    assert [arm.levels["lr"] for arm in ablation.arms] == ["b", "a", "c"]
    assert ablation.design.primary == LevelPair("lr", "a", "b")  # the first that there is
    with pytest.raises(InputError, match=r"ablation.from=opposite: the factor 'lr' has 3 levels"):
        plan([*given, "ablation.from=opposite"])


def test_listed_arms_keep_the_baseline_where_they_name_nothing():
    ablation = plan([STEPS, "ablation.design=listed", 'ablation.arms=[{}, {norm: pre, lr: "3e-4"}, {clip: "1.0"}]'])
    assert [{k for k, v in arm.levels.items() if v != BASELINE[k]} for arm in ablation.arms] == [
        set(), {"norm", "lr"}, {"clip"},
    ]  # fmt: skip
    assert ablation.design.primary == LevelPair("clip", "1.0", "0.1")


def test_runs_come_in_blocks_of_one_seed(tmp_path):
    ablation = plan(["ablation=lr_clip", "seeds=[3,1]", "data.shapes_num_train=2"])
    runs = expand(ablation, tmp_path)
    assert [run.config.seed for run in runs] == [3] * 4 + [1] * 4
    assert [run.arm for run in runs[:4]] == [run.arm for run in runs[4:]] == [arm.name for arm in ablation.arms]


def test_what_differs_is_named_by_settings():
    arms = {arm.name: arm for arm in plan(["ablation=lr_clip"]).arms}
    one, other = arms["recipe=official,clip=0.1"].config, arms["recipe=abbreviated,clip=0.1"].config
    assert differs(one, one) == {}
    assert differs(one, other) == {
        "model.norm": ("post", "pre"), "optim.lr": (1e-4, 3e-4), "schedule.shape": ("step", "warmup_cosine"),
    }  # fmt: skip
    found = varied(list(arms.values()))
    assert set(found["recipe=official,clip=0.1"]) == {"model.norm", "optim.lr", "optim.clip_norm", "schedule.shape"}


def test_options_of_own_parts_may_differ_in_their_names():
    run = RunConfig()
    one, other = (replace(run, optim=replace(run.optim, target="torch.optim:SGD", options=o)) for o in (None, {"a": 1}))
    assert differs(one, other) == {"optim.options.a": (None, 1)}
    assert differs(run, one) == {"optim.target": (None, "torch.optim:SGD")}


def test_the_published_length_differs_only_where_the_horizon_refers_to_it():
    def settings(horizon: str) -> set[str]:
        one, other = plan(["ablation=lr_clip", f"horizon={horizon}"]).arms[1:3]
        return set(differs(one.config, other.config))

    assert "schedule.full_epochs" in settings("5 %") and "schedule.full_epochs" in settings("full")
    assert not any("schedule.full_epochs" in settings(text) for text in ("600 steps", "5 epochs", "900 samples"))


def test_the_stored_design_is_plain_and_has_labelled_contrasts(tmp_path):
    overrides = ["ablation=lr_clip", f"data.root={tmp_path}", "data.shapes_num_train=1", "data.shapes_num_val=1"]
    ablation = plan(overrides)
    content = json.loads(json.dumps(ablation.stored([0, 3]).to_dict()))
    stored = Design.from_dict(content)
    assert replace(stored, seeds=(0,), images=None) == ablation.design and stored.seeds == (0, 3)
    first, second, *_ = contrasts(stored)
    assert (first.label, first.changes) == ("clip 1.0 against 0.1", ("optim.clip_norm",))
    assert second.described.endswith("(changes model.norm, optim.lr and schedule.shape at once)")
    assert stored.images.startswith(str(tmp_path)) and stored.margin_of(stored.metric) == 1.0
    assert content["metric"] == "val/AP"


def test_a_pair_of_arms_can_be_primary():
    pair = 'ablation.primary=[{norm: pre}, {clip: "1.0"}]'
    assert plan([STEPS, pair]).design.primary == ArmPair(
        arm="lr=1e-4,norm=pre,schedule=step,clip=0.1", against="lr=1e-4,norm=post,schedule=step,clip=1.0"
    )


MISTAKES = {
    "ablation.design=latin": "ablation.design='latin': choose from factorial, one_factor, listed",
    "ablation.from=middle": "ablation.from='middle': choose from baseline, opposite",
    "+ablation.margn=1": "ablation.margn: unknown key; did you mean margin?",
    "ablation.name=null": "ablation.name: is missing",
    "ablation.question=null": "ablation.question: is missing",
    "ablation.name=../x": "ablation.name='../x': folders are called after it",
    "ablation.margin=0": "ablation.margin=0: give AP points between 0 and 100",
    "ablation.margin=wide": "ablation.margin='wide'",
    "ablation.design=listed": "ablation.arms: a list of arms .* belongs to design=listed",
    "ablation.arms=[{}]": "ablation.arms: a list of arms .* belongs to design=listed, and only to it",
    "ablation.design=factorial ablation.from=opposite": "only design=one_factor starts somewhere",
    "ablation.design=listed ablation.arms=[{norm: pre}]": "ablation.arms: add the baseline lr=1e-4,norm=post",
    "ablation.design=listed ablation.arms=[{},{}]": r"ablation.arms\[1\]: .* is listed twice",
    "ablation.design=listed ablation.arms=[{nrm: pre}]": r"ablation.arms\[0\].nrm: there is no such factor",
    "ablation.design=listed ablation.arms=[3]": r"ablation.arms\[0\]: must map factors to levels",
    "ablation.design=listed ablation.arms={a: b}": "ablation.arms: must be a list",
    "ablation.baseline.norm=none": "ablation.baseline.norm='none': choose one of its levels, post, pre",
    "ablation.primary={norm: [pre]}": "ablation.primary=.*: give {factor",
    "ablation.primary={norm: [pre, pre]}": "ablation.primary: no two arms differ in norm=pre against pre alone",
    "ablation.primary=[{norm: pre},{norm: pre}]": "ablation.primary: compares .* with itself",
    "ablation.primary=[{norm: pre, schedule: cosine},{}]": "ablation.primary: .* is no arm of this design",
    "+ablation.factors.seed={x: []}": "ablation.factors.seed: the name is taken",
    "plan=maybe": "plan='maybe': true says what would be run",
    "ablation.metric=mAP": "ablation.metric='mAP': unknown metric 'mAP'; .*any logged one",
    "ablation.metric=val/APs": "ablation.metric='val/APs': did you mean val/AP",
    "ablation.metric=diagnostics/query_use": "say which values of diagnostics/query_use are better",
    "ablation.metric=[val/AP,val/AP]": "a list of different ones",
    "ablation.metric=val/loss ablation.margin=0": "ablation.margin=0: give a difference of val loss above 0",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    overrides = [part for part in mistake.replace(" ablation.", "\nablation.").split("\n") if part]
    with pytest.raises(InputError, match=MISTAKES[mistake]):
        plan([STEPS, *overrides])


# what a plan says


EARLIER = ("run_id", "arm", "seed", "fingerprint", "val/AP")


def earlier(aps: dict[tuple[str, int], float], **columns: str) -> pd.DataFrame:
    rows = [
        {"run_id": f"{arm}{seed}", "arm": arm, "seed": seed, "val/AP": ap, "optim.lr": arm}
        for (arm, seed), ap in aps.items()
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_the_sd_is_over_seeds_within_equal_settings():
    frame = earlier({("a", 0): 0.1, ("a", 1): 0.3, ("b", 0): 0.7, ("b", 1): 0.7, ("c", 0): 0.9})
    found = arm_sds(frame, AP)
    assert found == ([pytest.approx(math.sqrt(0.02))], [1])  # b has no spread, and c no second seed
    again = pd.concat([frame, frame.assign(run_id="again")])
    assert arm_sds(again, AP) == found  # a run that was made twice is no second sample
    assert arm_sds(frame[frame["arm"] == "c"], AP) == arm_sds(frame.iloc[:0], AP) == ([], [])


def test_the_sd_of_several_arms_is_that_of_their_prior():
    ablation = plan(["ablation=lr_clip"])
    mark = data_fingerprint(ablation.arms[0].config)
    sds = {"a": 0.073, "b": 0.085, "c": 0.017, "d": 0.024}
    aps = {(arm, seed): 0.3 + sd * (seed - 1) for arm, sd in sds.items() for seed in range(3)}
    frame = earlier(aps, fingerprint=mark, **{"schedule.horizon": "9 steps"})
    sd, source = seed_sd(ablation, frame, AP)
    assert sd == pytest.approx(prior_sd(list(sds.values()), [2] * 4).sd) and "from 12 earlier runs" in source


def test_earlier_runs_count_where_data_and_model_are_the_same():
    ablation = plan(["ablation=lr_clip"])
    mark = data_fingerprint(ablation.arms[0].config)
    columns = {"model.hidden_dim": "128", "model.norm": "pre", "schedule.horizon": "9 steps"}
    frame = earlier({("a", 0): 0.10, ("a", 1): 0.12}, fingerprint=mark, **columns)
    sd, source = seed_sd(ablation, frame, AP)
    expected = prior_sd([0.02 / math.sqrt(2)], [1]).sd
    assert sd == pytest.approx(expected) and "from 2 earlier runs" in source and "9 steps" in source
    for other in (frame.assign(fingerprint="x"), frame.assign(**{"model.hidden_dim": "64"}), frame.iloc[:1]):
        assert seed_sd(ablation, other, AP) == (ASSUMED_SD, seed_sd(ablation, frame.iloc[:0], AP)[1])


def test_half_widths_shrink_with_seeds_and_with_pairs(tmp_path):
    overrides = ["ablation=lr_clip", f"data.root={tmp_path}", "data.shapes_num_train=1", "data.shapes_num_val=1"]
    ablation = plan([*overrides, "seeds=[0,1,2]"])
    averaged, *_, pair = contrasts(ablation.design)
    # t quantiles of 4, 8 (Welch's with equal SDs) and 5 (paired, from six seeds on) degrees of freedom
    assert half_width(pair, 0.01, 3) == pytest.approx(2.776 * 0.01 * math.sqrt(2 / 3), rel=1e-3)
    assert half_width(averaged, 0.01, 3) == pytest.approx(2.306 * 0.01 * math.sqrt(1 / 3), rel=1e-3)
    assert half_width(pair, 0.01, 6) == pytest.approx(2.571 * 0.01 * math.sqrt(2 / 6), rel=1e-3)
    for contrast in (pair, averaged):
        needed = seeds_needed(contrast, 0.01, 0.01)
        assert half_width(contrast, 0.01, needed) <= 0.01 < half_width(contrast, 0.01, needed - 1)
    assert seeds_needed(pair, 0.01, 1e-6) is None
    lines = list(resolution(ablation, pd.DataFrame(columns=list(EARLIER))))
    assert (
        lines[0]
        == "SD of AP over seeds: 1 points, assumed, as no earlier runs with this data and model have several seeds"
    )
    assert lines[1] == (
        "primary: clip 1.0 against 0.1: interval of ±1.3 points with 3 seeds; 5 seeds would settle a difference of 1, "
        "the margin"
    )
    single = replace(ablation, design=replace(ablation.design, seeds=(0,)))
    assert "an interval over seeds takes 2" in list(resolution(single, pd.DataFrame(columns=list(EARLIER))))[1]


def test_costs_are_measured_once_for_equal_computations():
    first, second, third, _ = plan(["ablation=lr_clip"]).arms
    assert cost_key(first.config) == cost_key(second.config) != cost_key(third.config)  # pre-norm is another model


def test_what_is_measured_need_not_be_fetched_or_compiled():
    measured = measurable(plan(["model=detr_r50", "train.compile=true"]).arms[0].config)
    assert (measured.model.pretrained, measured.train.compile) == (False, False)


@pytest.mark.parametrize(
    ("metric", "given"),
    [("val/AP", None), ("val/APS", None), ("{name: val/loss, margin: 0.1}", 0.1), ("seconds", None)],
)
def test_a_plan_is_of_the_metric_and_in_its_unit(tmp_path, metric, given):
    overrides = ["ablation=lr_clip", f"data.root={tmp_path}", "data.shapes_num_train=1", "data.shapes_num_val=1"]
    ablation = plan([*overrides, "seeds=[0,1,2]", f"ablation.metric={metric}"])
    decides = ablation.design.metric
    mark = data_fingerprint(ablation.arms[0].config)
    frame = earlier({("a", 0): 0.10, ("a", 1): 0.12}, fingerprint=mark, **{"schedule.horizon": "9 steps"})
    lines = list(resolution(ablation, frame.rename(columns={"val/AP": decides.column})))
    sd = prior_sd([0.02 / math.sqrt(2)], [1]).sd
    unit = "points" if decides.unit == "points" else decides.label
    margin = given or (1 if unit == "points" else None)
    end = f"would settle a difference of {margin}, the margin" if margin else "no margin"
    assert lines[0].startswith(f"SD of {decides.label} over seeds: {decides.scale * sd:.2g}")
    assert f"±{decides.shown(half_width(contrasts(ablation.design)[0], sd, 3))} {unit} with 3 seeds" in lines[1]
    assert lines[1].endswith(end)
    unknown = list(resolution(ablation, frame.iloc[:0].rename(columns={"val/AP": decides.column})))
    assert ("unknown, as no earlier runs" in unknown[0]) == (unit != "points")


def test_lengths_tell_what_is_equal():
    def at(horizon: str, steps: int) -> str:
        ablation = plan(["ablation=lr_clip", f"horizon={horizon}"])
        costs = {arm.name: Cost(steps, steps / 100, 1.0, 1.0) for arm in ablation.arms}
        return comparison(lengths(ablation, costs))

    assert at("600 steps", 600).startswith(
        "equal steps (600) and epochs (6), unequal fraction of the schedule (1.2 % to 6 %)"
    )
    assert Cost(10, 1.0, 2.0, 3.0).seconds(evaluations=4) == 32


def test_a_plan_is_printed_and_nothing_is_run(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tiny = ["data.shapes_num_train=16", "data.shapes_num_val=4", "model.hidden_dim=32", "model.backbone_width=8"]
    code, printed, errors = answer("ablation=lr_clip", "seeds=[0,1]", "horizon=4 steps", "plan=true", *tiny)
    assert code == 0, errors
    for text in (
        "factorial",
        "(baseline)",
        "optim.clip_norm",
        "equal steps (4)",
        "8 runs to do: about",
        "primary: clip",
    ):
        assert text in printed
    assert not list(tmp_path.glob("runs/lr_clip*")) and not list(tmp_path.glob("store/*.db"))


@pytest.mark.parametrize(
    ("setting", "same"),
    [
        ("train.num_processes=2", True),
        ("evaluation.backend=faster-coco-eval", True),
        ("train.compile=true", True),
        ("train.checkpoint_activations=all", True),
        ("train.grouping=size", False),
    ],
)
def test_what_changes_no_figure_does_not_make_it_another_run(setting, same):
    one, two = plan(["train.accumulate=2"]), plan(["train.accumulate=2", setting])
    assert (one.identity == two.identity) == same
