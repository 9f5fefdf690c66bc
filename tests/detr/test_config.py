"""Settings: strict reading, what is refused and how it is named, and the way there and back."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr.config import (
    DataConfig,
    EvaluationConfig,
    GroupRule,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from detr.config_io import flatten, from_dict, to_dict
from detr.errors import InputError


def test_defaults_are_the_official_recipe():
    run = RunConfig()
    assert (run.model.backbone, run.model.hidden_dim, run.model.num_queries, run.model.num_classes) == (
        "resnet50", 256, 100, 91,
    )  # fmt: skip
    assert run.train.batch_size * run.train.accumulate == 64
    assert (run.optim.lr, run.optim.backbone_lr_ratio, run.optim.clip_norm) == (1e-4, 0.1, 0.1)


def test_round_trip_through_json():
    run = RunConfig(
        model=ModelConfig(backbone="small", pretrained=False, num_classes=None),
        optim=OptimConfig(
            groups=(GroupRule("norm", weight_decay=0.0), GroupRule("x", lr_ratio=2.0, name="y")),
            target="torch.optim:SGD",
            options={"momentum": 0.9, "nested": {"a": [1]}},
        ),
        evaluation=EvaluationConfig(area_limits=(10.0, 20.0)),
        seed=3,
    )
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(run)))) == run


@given(
    st.builds(
        OptimConfig,
        lr=st.floats(1e-8, 10),
        backbone_lr_ratio=st.floats(0, 10),
        weight_decay=st.floats(0, 1),
        clip_norm=st.floats(0, 100),
    )
)
def test_round_trip_keeps_every_digit(optim):
    run = RunConfig(optim=optim)
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(run)))) == run


def test_missing_keys_take_the_defaults():
    assert from_dict(RunConfig, {}) == RunConfig()
    assert from_dict(RunConfig, {"model": {"num_queries": 7}}).model == ModelConfig(num_queries=7)


def test_whole_numbers_are_floats_where_asked_for():
    optim = from_dict(RunConfig, {"optim": {"clip_norm": 1}}).optim
    assert type(optim.clip_norm) is float


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"modle": {}}, r"unknown setting modle: did you mean model\?"),
        ({"optim": {"lrr": 1}}, r"unknown setting optim.lrr: did you mean optim.lr\?"),
        ({"optim": {"zzz": 1}}, r"unknown setting optim.zzz: there are .*weight_decay"),
        ({"optim": 3}, "optim must be a group"),
        ({"optim": {"lr": "1e-4"}}, "optim.lr='1e-4': must be float, not str"),
        ({"optim": {"lr": True}}, "optim.lr=True: must be float, not bool"),
        ({"model": {"num_queries": 10.0}}, "model.num_queries=10.0: must be int, not float"),
        ({"model": {"num_queries": True}}, "model.num_queries=True: must be int, not bool"),
        ({"model": {"dilation": 1}}, "model.dilation=1: must be bool, not int"),
        ({"model": {"backbone": "vgg"}}, "model.backbone='vgg': choose from resnet18, .*small"),
        ({"model": {"backbone_stride": 8.0}}, "model.backbone_stride=8.0: choose from 8, 16"),
        ({"model": {"pretrained": 1}}, "model.pretrained=1: must be bool or str, not int"),
        ({"model": {"num_classes": "3"}}, "model.num_classes='3': must be int or null, not str"),
        ({"evaluation": {"area_limits": [1.0]}}, r"evaluation.area_limits=\[1.0\]: must be a list of 2 numbers"),
        ({"evaluation": {"area_limits": [1.0, "2"]}}, "evaluation.area_limits='2': must be float"),
        ({"seed": None}, "seed=None: must be int"),
        ({"optim": {"groups": {"a": 1}}}, r"optim.groups=.*: must be a list, not dict"),
        ({"optim": {"groups": [{"patern": "a"}]}}, r"unknown setting optim.groups\[0\].patern: did you mean"),
        ({"model": {"options": 3}}, "model.options=3: must be a group of settings or null, not int"),
    ],
)
def test_wrong_keys_and_types_are_named(values, named):
    with pytest.raises(InputError, match=named):
        from_dict(RunConfig, values)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ModelConfig(num_queries=0), "model.num_queries=0"),
        (lambda: ModelConfig(hidden_dim=250), "model.hidden_dim=250"),
        (lambda: ModelConfig(hidden_dim=6, num_heads=2), "model.hidden_dim=6"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout=1.0"),
        (lambda: ModelConfig(backbone="resnet18", dilation=True), "model.dilation=True.*resnet50"),
        (lambda: ModelConfig(backbone="small"), "model.pretrained=True.*no published weights"),
        (lambda: ModelConfig(backbone="vgg"), "model.backbone='vgg'"),
        (lambda: ModelConfig(backbone_width=12), "model.backbone_width=12"),
        (lambda: OptimConfig(lr=0), "optim.lr=0"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr=nan"),
        (lambda: OptimConfig(clip_norm=-1), "optim.clip_norm=-1"),
        (lambda: ScheduleConfig(horizon="600"), "horizon='600'"),
        (lambda: ScheduleConfig(warmup=0.5), "schedule.warmup=0.5"),
        (lambda: ScheduleConfig(floor=1.5), "schedule.floor=1.5"),
        (lambda: TrainConfig(accumulate=0), "train.accumulate=0"),
        (lambda: TrainConfig(precision="float8"), "train.precision='float8'"),
        (lambda: DataConfig(max_size=10), "data.max_size=10"),
        (lambda: TrainConfig(grouping="aspect"), "train.grouping='aspect'"),
        (lambda: EvaluationConfig(backend="torchmetrics"), "evaluation.backend='torchmetrics'.*faster-coco-eval"),
        (lambda: EvaluationConfig(area_limits=(5.0, 5.0)), "evaluation.area_limits"),
        (lambda: RunConfig(seed=-1), "seed=-1"),
        (lambda: ModelConfig(target="my.net.build"), "model.target='my.net.build': write package.module:name"),
        (lambda: EvaluationConfig(extra="metric"), "evaluation.extra='metric': write package.module:name"),
        (lambda: OptimConfig(options={"a": 1}), r"optim.options=.*belongs to optim.target, which is not set"),
        (lambda: LossConfig(cost_class=0, cost_bbox=0, cost_giou=0), "at least one matching cost"),
        (lambda: LossConfig(classification="focal", no_object_weight=0.2), "loss.no_object_weight=0.2.*softmax"),
        (
            lambda: RunConfig(model=ModelConfig(target="a:b"), train=TrainConfig(checkpoint_activations="all")),
            "train.checkpoint_activations='all': model.target=a:b",
        ),
        (lambda: TrainConfig(ema=1.0), r"train.ema=1.0: must be in \[0, 1\)"),
    ],
)
def test_impossible_values_are_named(build, named):
    with pytest.raises(InputError, match=named):
        build()


def test_settings_are_frozen_and_replace_checks_again():
    with pytest.raises(FrozenInstanceError):
        OptimConfig().lr = 1.0
    with pytest.raises(InputError, match=r"optim.lr=-1"):
        replace(OptimConfig(), lr=-1)


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
