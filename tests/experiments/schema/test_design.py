"""A stored design is read strictly: whatever is wrong is told by its first fault."""

import json
from dataclasses import replace

import pytest

from experiments.schema.design import OPTIONAL, REQUIRED, ArmPair, Design, LevelPair, metrics_of
from experiments.schema.metrics import AP, Metric

DESIGN = Design(
    name="n",
    question="?",
    design="factorial",
    factors={"clip": ("0.1", "1.0")},
    arms={"clip=0.1": {"clip": "0.1"}, "clip=1.0": {"clip": "1.0"}},
    baseline="clip=0.1",
    primary=LevelPair("clip", "1.0", "0.1"),
    horizon="20 steps",
    seeds=(0, 1),
    metrics=(Metric("val/loss", "lower", margin=0.1), AP, Metric("diagnostics/query_use", "lower")),
    margin=2.0,
    settings={"clip=0.1": {"optim.clip_norm": 0.1}, "clip=1.0": {"optim.clip_norm": 1.0}},
    images="val",
)


@pytest.mark.parametrize(
    "design",
    [
        DESIGN,
        replace(DESIGN, primary=ArmPair("clip=1.0", "clip=0.1"), metrics=(AP,), margin=None, images=None),
        replace(DESIGN, primary=None, settings={}),
    ],
)
def test_a_design_survives_its_file(design):
    assert Design.from_dict(json.loads(json.dumps(design.to_dict()))) == design
    assert design.to_dict().keys() == REQUIRED.keys() | OPTIONAL.keys()


def test_an_older_file_is_judged_by_ap_with_a_margin_of_one_point():
    content = DESIGN.to_dict()
    for key in ("metric", "margin", "settings", "images", "primary"):
        del content[key]
    old = Design.from_dict(content)
    assert old.metrics == (AP,) and old.metric == AP and old.margin_of(AP) == 1.0
    assert old.settings == {} and old.primary is None


def test_margins_are_in_the_unit_of_their_metric():
    loss, small, seconds = Metric("val/loss", "lower"), Metric("val/APS"), Metric("seconds", "lower")
    points = replace(DESIGN, metrics=(AP, small, loss), margin=0.5)
    assert [points.margin_of(metric) for metric in (AP, small, loss, seconds)] == [0.5, 0.5, None, None]
    unstated = replace(points, margin=None)
    assert [unstated.margin_of(metric) for metric in (AP, small, loss)] == [1.0, 1.0, None]
    by_loss = replace(DESIGN, metrics=(loss, AP), margin=0.05)
    assert [by_loss.margin_of(metric) for metric in (loss, AP)] == [0.05, 1.0]
    assert by_loss.margin_of(replace(loss, margin=0.2)) == 0.2


FAULTS = {
    "an object": ([], "it must hold an object, not '\\[\\]'"),
    "seeds": ({"seeds": [0, "1"]}, "'seeds' must be whole numbers"),
    "name": ({"name": 3}, "'name' must be a text, not '3'"),
    "factors": ({"factors": {"clip": []}}, "'factors' must be names with their levels"),
    "arms": ({"arms": {"a": {"clip": 1}}}, "'arms' must be names with a level of each factor"),
    "margin": ({"margin": float("nan")}, "'margin' must be a positive number"),
    "metric": ({"metric": "mAP"}, "unknown metric 'mAP'"),
    "metrics": ({"metric": []}, "give one metric, or a list of different ones"),
    "settings": ({"settings": {"a": 1}}, "'settings' must be arms with their settings"),
    "primary": ({"primary": {"factor": "clip"}}, "must have factor, level and against, or arm and against"),
    "level": ({"primary": {"factor": "clip", "level": "9", "against": "0.1"}}, "names what is not in the design"),
    "pair": ({"primary": {"arm": "x", "against": "clip=0.1"}}, "names what is not in the design"),
    "combination": ({"arms": {"clip=7": {"clip": "7"}}}, "the arm 'clip=7' is no combination"),
    "unknown key": ({"later": 1}, "'later' is no key of a design"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_fault_is_named(fault):
    change, said = FAULTS[fault]
    content = DESIGN.to_dict() | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match=said):
        Design.from_dict(content)


@pytest.mark.parametrize("key", REQUIRED)
def test_what_is_missing_is_named(key):
    with pytest.raises(ValueError, match=f"it lacks '{key}'"):
        Design.from_dict({k: v for k, v in DESIGN.to_dict().items() if k != key})


def test_a_metric_stands_once():
    with pytest.raises(ValueError, match="a list of different ones"):
        metrics_of(["val/AP", {"name": "val/AP", "better": "lower"}])
