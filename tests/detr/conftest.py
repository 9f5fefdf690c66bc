"""Builders that the tests of the core share."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from detr.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _repeatable():
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., ModelConfig]:
    """A detector of some ten thousand parameters; keywords change fields."""
    small = ModelConfig(
        backbone="small",
        pretrained=False,
        backbone_width=8,
        hidden_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=2,
        dim_feedforward=32,
        dropout=0.0,
        num_queries=5,
        num_classes=3,
    )
    return lambda **changes: replace(small, **changes)


@pytest.fixture(scope="session")
def random_targets() -> Callable[..., list[dict[str, torch.Tensor]]]:
    """Targets of images with the given numbers of objects."""

    def build(counts: list[int], num_classes: int = 3, seed: int = 0) -> list[dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            {
                "labels": torch.randint(num_classes, (n,), generator=generator),
                "boxes": torch.rand(n, 4, generator=generator) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05]),
            }
            for n in counts
        ]

    return build


@pytest.fixture(scope="session")
def random_outputs() -> Callable[..., dict[str, Any]]:
    """Outputs as DETR gives them, without a model."""

    def build(batch: int, queries: int = 5, num_classes: int = 3, layers: int = 2, seed: int = 1) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        outputs = [
            {
                "pred_logits": torch.randn(batch, queries, num_classes + 1, generator=generator),
                "pred_boxes": torch.randn(batch, queries, 4, generator=generator).sigmoid(),
            }
            for _ in range(layers)
        ]
        return {**outputs[-1], "aux_outputs": outputs[:-1]}

    return build


@pytest.fixture
def write_coco(tmp_path) -> Callable[..., Path]:
    """Write a folder in COCO format with the same images as training and validation part; returns its root.

    objects:  per image a list of (category_id, bbox) or of dicts with more keys of an annotation
    """

    def build(
        objects: list[list], categories: tuple[int, ...] = (1, 2), size: tuple[int, int] = (40, 60), name: str = "coco"
    ) -> Path:
        root = tmp_path / name
        height, width = size
        content: dict[str, list] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        }
        (root / "images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i, items in enumerate(objects, start=1):
            file_name = f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / "images" / file_name)
            content["images"].append({"id": i, "file_name": file_name, "width": width, "height": height})
            for item in items:
                record = item if isinstance(item, dict) else {"category_id": item[0], "bbox": item[1]}
                content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": i, **record})
        (root / "annotations.json").write_text(json.dumps(content))
        return root

    return build


@pytest.fixture(scope="session")
def coco_config() -> Callable[..., DataConfig]:
    """The data settings for a folder of `write_coco`."""

    def build(root: Path, /, **changes: Any) -> DataConfig:
        config = DataConfig(
            root=str(root),
            train_annotations="annotations.json",
            val_annotations="annotations.json",
            train_images="images",
            val_images="images",
            image_size=40,
            max_size=60,
            augmentation="none",
            num_workers=0,
        )
        return replace(config, **changes)

    return build


@pytest.fixture(scope="session")
def tiny_run_in(tiny_model) -> Callable[[Path], Callable[..., RunConfig]]:
    """A builder of runs of seconds on 6 scenes that are drawn in a folder; its keywords change groups of settings."""

    def builder(folder: Path) -> Callable[..., RunConfig]:
        data = DataConfig(
            name="shapes",
            root=str(folder / "shapes"),
            augmentation="light",
            image_size=32,
            max_size=64,
            num_workers=0,
            shapes_image_size=32,
            shapes_num_train=6,
            shapes_num_val=3,
        )
        run = RunConfig(
            model=tiny_model(num_queries=8, dropout=0.1, num_classes=None),
            data=data,
            optim=OptimConfig(lr=1e-3),
            schedule=ScheduleConfig(shape="warmup_cosine", horizon="4 steps"),
            train=TrainConfig(batch_size=2, accumulate=2, device="cpu", evaluations=2),
            evaluation=EvaluationConfig(area_limits=(100.0, 300.0)),
        )

        def build(**groups: dict[str, Any]) -> RunConfig:
            return replace(run, **{name: replace(getattr(run, name), **changes) for name, changes in groups.items()})

        return build

    return builder


@pytest.fixture
def tiny_run(tmp_path, tiny_run_in) -> Callable[..., RunConfig]:
    """Build a run of seconds on 6 drawn scenes of the test's own; keywords change groups of settings."""
    return tiny_run_in(tmp_path)
