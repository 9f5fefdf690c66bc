"""Malformed run directories and annotation files: a sentence that names the file, never a traceback."""

import json
import os
import random
import shutil
import warnings
from pathlib import Path

import pytest
from malformed import damage

from detr.config import DataConfig, RunConfig
from detr.data import open_split
from detr.doctor.checks import audit
from detr.errors import InputError
from experiments.folders.files import Folder
from experiments.results.detections import matching
from experiments.runs.run_directory import RunDirectory
from experiments.schema import names
from experiments.schema.record import RecordLine
from experiments.schema.store import Store, StoreError, load_store
from experiments.tracking import sync
from experiments.tracking.upload import left

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "150"))  # run directories; as many annotation files
SEED = int(os.environ.get("CHAOS_SEED", "0"))


class Listener:
    """A tracker that keeps nothing, and takes only what MLflow would take."""

    def create(self, experiment, name, tags, parent_id):
        assert isinstance(name, str) and all(isinstance(key, str) for key in tags)
        return "0" * 32

    def knows(self, run_id):
        return isinstance(run_id, str)

    def set_tags(self, run_id, tags):
        assert isinstance(tags, dict)

    def log_params(self, run_id, params):
        assert isinstance(params, dict)

    def log_metrics(self, run_id, metrics):
        assert all(type(metric.value) in (int, float) for metric in metrics)

    def log_file(self, run_id, path, folder):
        assert path.is_file()

    def close(self, run_id, state, error):
        assert isinstance(state, str) and isinstance(error, str)


@pytest.fixture(scope="module")
def sound(make_run, tmp_path_factory) -> Path:
    """An ablation with one run, as training leaves it."""
    directory = make_run(tmp_path_factory.mktemp("sound") / "ablation")
    directory.begin()
    for step in (1, 2, 3):
        place = {"step": step, "num_steps": 3, "epoch": step / 3, "samples": step, "seconds": float(step)}
        directory.records.append(RecordLine.stamped(**place, metrics={"train/loss": 1.0 / step, "train/lr": 1e-4}))
    directory.records.append(RecordLine.stamped(**place, metrics={"val/AP": 0.25, "val/loss": 2.0}))
    (directory.path / names.PREDICTIONS).write_text("[]")
    directory.update(state="finished")
    return directory.path.parents[1]


def test_malformed_run_directories_are_told_in_a_sentence(sound, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sync, "Tracker", lambda store: Listener())
    store: Store = load_store()
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        shutil.copytree(sound, root)
        victims = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".jsonl") and path.is_file())
        done = [damage(path, chance) for path in chance.sample(victims, chance.randint(1, 3))]
        try:
            code = sync.sync(store, [root])
            assert code in (0, 1)
            for read in (
                lambda run: run.config, lambda run: run.about, lambda run: run.status, lambda run: run.records.read(),
                lambda run: run.records.repair(), lambda run: left(run.path), lambda run: run.begin(),
            ):  # fmt: skip
                try:
                    read(RunDirectory(root / "arm" / "seed-0"))
                except (InputError, OSError) as error:
                    assert str(error)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, round {number}: {done}") from error
        assert "Traceback" not in capsys.readouterr().out
        shutil.rmtree(root)


def test_malformed_annotation_files_are_told_in_a_sentence(tmp_path):
    image = {"id": 3, "file_name": "3.png", "width": 32, "height": 24}
    box = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}
    content = {"images": [image], "annotations": [box, box | {"id": 2}], "categories": [{"id": 7, "name": "a"}]}
    path, chance, refused = tmp_path / "annotations.json", random.Random(SEED), 0
    config = DataConfig(
        name="coco", root=str(tmp_path), train_annotations=path.name, val_annotations=path.name, train_images=".",
        val_images=".",
    )  # fmt: skip
    for number in range(ROUNDS):
        path.write_text(json.dumps(content))
        done = damage(path, chance)
        try:
            try:
                open_split(config, "train").summary()
            except InputError as error:
                refused += 1
                assert path.name in str(error)
            try:  # the doctor goes on where training would not, and finds all faults at once
                audit({"train": (path, tmp_path)}, RunConfig(data=config))
            except InputError as error:
                assert path.name in str(error)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, round {number}: {done}") from error
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    assert 0.5 * ROUNDS < refused < ROUNDS


def test_malformed_results_are_told_in_a_sentence(tmp_path):
    """What the dashboard and reports read of a run that anyone may have made."""
    image = {"id": 3, "file_name": "3.png", "width": 32, "height": 24}
    box = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0}
    truth = {"images": [image], "annotations": [box], "categories": [{"id": 7, "name": "a"}]}
    found = [{"image_id": 3, "category_id": 7, "score": 0.5, "bbox": [1, 2, 10, 12]}] * 2
    chance, refused = random.Random(SEED), 0
    for number in range(ROUNDS):
        paths = [tmp_path / f"{number}-truth.json", tmp_path / f"{number}-found.json"]
        for path, content in zip(paths, (truth, found), strict=True):
            path.write_text(json.dumps(content))
        done = damage(chance.choice(paths), chance)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                known, given = (matching.load(path) for path in paths)
                matching.match(matching.read_detections(matching.read_truth(known), given))
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, round {number}: {done}") from error
    assert 0.3 * ROUNDS < refused < ROUNDS


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir [made]", "tracking_uri: !!python/name:os.system"])
def test_yaml_that_names_objects_makes_none(tmp_path, monkeypatch, text, answer):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store.yaml").write_text(text)
    with pytest.raises(StoreError, match=r"store\.yaml"):
        load_store(tmp_path / "store.yaml")
    (tmp_path / "mine.yaml").write_text(f"# @package _global_\nablation: {text}")
    code, _, said = answer(f"ablation={tmp_path / 'mine.yaml'}")
    assert code == 2 and "mine.yaml" in said and "Traceback" not in said
    assert not (tmp_path / "made").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "status.json").write_text("[]")
    assert sync.reconcile(tmp_path) == [] and (tmp_path / "status.json").read_text() == "[]"
    with pytest.raises(InputError, match=r"status\.json"):
        Folder(tmp_path).status  # noqa: B018
