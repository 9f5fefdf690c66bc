"""Run directories of seconds, and stores for them."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detr.config import (
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from experiments.definition.arms import Run
from experiments.folders.files import Folder
from experiments.runs.run_directory import RunDirectory
from experiments.schema import names
from experiments.schema.store import load_store
from experiments.tracking.client import configure_mlflow
from experiments.tracking.database import initialise

ROOT = Path(__file__).resolve().parents[2]
TINY = RunConfig(
    model=ModelConfig(
        backbone="small", pretrained=False, backbone_width=8, hidden_dim=16, num_heads=2, num_encoder_layers=1,
        num_decoder_layers=2, dim_feedforward=32, dropout=0.1, num_queries=8, num_classes=None,
    ),
    data=DataConfig(
        name="shapes", augmentation="light", image_size=32, max_size=64, num_workers=0, shapes_image_size=32,
        shapes_num_train=6, shapes_num_val=3,
    ),
    optim=OptimConfig(lr=1e-3),
    schedule=ScheduleConfig(shape="warmup_cosine", horizon="4 steps"),
    train=TrainConfig(batch_size=2, accumulate=2, device="cpu", evaluations=2, probe_images=2),
    evaluation=EvaluationConfig(area_limits=(100.0, 300.0)),
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _configured():
    """As every entry point does: a server that is away holds nobody up for long."""
    configure_mlflow()


@pytest.fixture(scope="session")
def make_run(tmp_path_factory) -> Callable[..., RunDirectory]:
    """A run of 4 steps of 2 x 2 images of 6, with evaluations after steps 2 and 4, in an ablation's folder `folder`;
    keywords change groups of settings.
    """
    root = str(tmp_path_factory.mktemp("shapes"))

    def make(folder: Path, name: str = "arm", **groups: dict[str, Any]) -> RunDirectory:
        groups = {"data": {}} | groups
        groups["data"] = {"root": root} | groups["data"]
        changed = {group: replace(getattr(TINY, group), **changes) for group, changes in groups.items()}
        folder.mkdir(exist_ok=True, parents=True)
        Folder(folder).update(state="running")
        Folder(folder).track("ablation", {names.ABLATION: "ablation"}, experiment="ablations")
        levels = {"factor": name}
        run = Run(f"{name},seed=0", name, levels, replace(TINY, **changed), "fingerprint", folder / name / "seed-0")
        return RunDirectory.create(run, folder)

    return make


@pytest.fixture
def nowhere(tmp_path) -> Path:
    """An mlflow.yaml whose tracking server refuses every connection."""
    text = (ROOT / "mlflow.yaml").read_text().replace("sqlite:///store/mlflow.db", "http://127.0.0.1:9")
    path = tmp_path / "nowhere.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def _database(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    shutil.copy(ROOT / "mlflow.yaml", folder)
    store = load_store(folder / "mlflow.yaml")
    initialise(store)
    with sqlite3.connect(store.database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.database


@pytest.fixture
def somewhere(tmp_path, _database) -> Path:
    """An mlflow.yaml with an empty SQLite store."""
    path = tmp_path / "mlflow.yaml"
    shutil.copy(ROOT / "mlflow.yaml", path)
    database = load_store(path).database
    database.parent.mkdir()
    shutil.copy(_database, database)
    return path
