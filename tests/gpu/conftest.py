"""Runs of seconds that differ in their device alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detr.config import DataConfig, EvaluationConfig, ModelConfig, OptimConfig, RunConfig, ScheduleConfig, TrainConfig

TINY = RunConfig(
    model=ModelConfig(
        backbone="small", pretrained=False, backbone_width=16, hidden_dim=32, num_heads=2, num_encoder_layers=1,
        num_decoder_layers=2, dim_feedforward=64, dropout=0.0, num_queries=8, num_classes=None,
    ),
    data=DataConfig(
        name="shapes", augmentation="light", image_size=64, max_size=96, num_workers=0, shapes_image_size=64,
        shapes_num_train=8, shapes_num_val=4,
    ),
    optim=OptimConfig(lr=1e-3, clip_norm=0.5),
    schedule=ScheduleConfig(shape="warmup_cosine", horizon="4 steps"),
    train=TrainConfig(batch_size=2, accumulate=2, evaluations=1),
    evaluation=EvaluationConfig(area_limits=(100.0, 300.0)),
)  # fmt: skip


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """Build a run of 4 steps on 8 drawn scenes for a device; keywords change groups of settings."""

    def build(device: str, **groups: dict[str, Any]) -> RunConfig:
        groups["train"] = {"device": device} | groups.get("train", {})
        groups["data"] = {"root": str(tmp_path / "shapes")} | groups.get("data", {})
        return replace(TINY, **{name: replace(getattr(TINY, name), **changes) for name, changes in groups.items()})

    return build
