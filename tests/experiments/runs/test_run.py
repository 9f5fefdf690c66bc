"""The whole command on a tiny set, and every mistake of a user as one clear sentence."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from detr.evaluation import evaluate_coco
from experiments.schema import names

TINY = (
    "ablation=lr_clip",
    "horizon=4 steps",
    "train.evaluations=2",
    "train.batch_size=4",
    "data.shapes_num_train=12",
    "data.shapes_num_val=4",
    "data.num_workers=0",
    "model.hidden_dim=32",
    "model.backbone_width=8",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=2",
)
ARMS = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """A store in which the tiny ablation has run with seed 0."""
    store = tmp_path_factory.mktemp("store")
    done = command(store, *TINY, "launcher=local")  # a process a run would import for longer than it trains
    assert done.returncode == 0, done.stdout + done.stderr
    return store, done


def tracked(store: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{store}/store/mlflow.db")


def ablation_runs(store: Path):
    """(parents, children) of the store, newest first."""
    runs = tracked(store).search_runs(["1"])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return [run for run in runs if run not in children], children


def folder_of(store: Path) -> Path:
    return max((store / "runs").glob("lr_clip-*"))


def test_every_arm_is_a_run_below_one_parent(finished):
    store, _ = finished
    parents, children = ablation_runs(store)
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert {run.data.tags[names.ARM] for run in children} == set(ARMS)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert all(run.info.status == "FINISHED" for run in children)


def test_arms_get_the_settings_of_their_levels(finished):
    store, _ = finished
    for run in ablation_runs(store)[1]:
        params, arm = run.data.params, run.data.tags[names.ARM]
        official = arm.startswith("recipe=official")
        assert params["model.norm"] == ("post" if official else "pre")
        assert float(params["optim.lr"]) == (1e-4 if official else 3e-4)
        assert params["schedule.shape"] == ("step" if official else "warmup_cosine")
        assert params["optim.clip_norm"] == arm[-3:]
        assert params["schedule.horizon"] == "4 steps"


def test_mlflow_has_what_the_run_directory_has(finished):
    store, _ = finished
    for run in ablation_runs(store)[1]:
        lines = Path(run.data.tags[names.RUN_DIRECTORY], "records.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for key in (
            "train/loss",
            "train/grad_norm",
            "train/clip_fraction",
            "train/lr",
            "train/lr_backbone",
            "val/loss",
        ):
            expected = [(r["step"], r["metrics"][key]) for r in records if key in r["metrics"]]
            history = tracked(store).get_metric_history(run.info.run_id, key)
            assert [(p.step, p.value) for p in sorted(history, key=lambda p: p.step)] == expected and expected


def test_stored_predictions_give_the_logged_ap(finished):
    store, _ = finished
    folder = folder_of(store)
    for run in ablation_runs(store)[1]:
        predictions = Path(run.data.tags[names.RUN_DIRECTORY], "predictions.json")
        metrics = evaluate_coco(folder / "annotations_val.json", predictions, (215, 470))
        assert metrics["AP"] == pytest.approx(run.data.metrics["val/AP"], abs=1e-12)
        assert len(json.loads(predictions.read_text())) == 4 * 10  # every query of every image


def test_artifacts_hold_checkpoints_predictions_and_pictures(finished):
    store, _ = finished
    parents, children = ablation_runs(store)
    found = {artifact.path for artifact in tracked(store).list_artifacts(children[0].info.run_id)}
    assert {"config.json", "records.jsonl", "predictions.json", "samples.png", "checkpoints"} <= found
    found = {artifact.path for artifact in tracked(store).list_artifacts(parents[0].info.run_id)}
    assert {"ablation.json", "annotations_val.json", "report"} <= found


def test_report_has_a_row_an_arm_and_marks_the_published_rows(finished):
    store, done = finished
    table = pd.read_csv(folder_of(store) / "report" / "table.csv")
    assert table["arm"].tolist() == ARMS and table["N"].tolist() == [1] * 4 and table["steps"].tolist() == [4] * 4
    text = (folder_of(store) / "report" / "report.md").read_text()
    assert "42.0" in text and "COCO val2017, ResNet-50, full schedule" in text
    assert "make ui" in done.stdout


def test_same_command_runs_only_what_is_missing(finished, command, answer, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    # MLflow's paths in the copied database lead to the original; a missing arm and a new seed are run nevertheless
    shutil.rmtree(folder_of(tmp_path) / ARMS[3])
    done = command(tmp_path, *TINY, "launcher=local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs are done, 1 to do" in done.stdout
    code, printed, errors = answer(*TINY, "launcher=local", "fresh=true")
    assert code == 0, errors
    assert "0 runs are done, 4 to do" in printed
    assert len(list((tmp_path / "runs").glob("lr_clip-*"))) == 2


def test_all_runs_of_a_seed_see_the_same_data_and_start(finished):
    """Arms that differ in nothing but the clip norm have the same first loss."""
    store, _ = finished
    first = {}
    for run in ablation_runs(store)[1]:
        history = tracked(store).get_metric_history(run.info.run_id, "train/loss")
        first[run.data.tags[names.ARM]] = min(history, key=lambda p: p.step).value
    assert first[ARMS[0]] == first[ARMS[1]] and first[ARMS[2]] == first[ARMS[3]]


def test_a_failing_arm_is_reported_and_the_others_go_on(tmp_path, command):
    done = command(
        tmp_path,
        *TINY,
        "ablation=single",
        "+ablation.factors.lr={good: ['optim.lr=1e-4'], absurd: ['optim.lr=1e30']}",
        "+ablation.baseline.lr=good",
        "horizon=6 steps",
        "workers=1",
    )
    assert done.returncode == 1
    assert re.search(r"lr=absurd,seed=0\s+failed\s+NonFiniteLoss: step \d", done.stdout)
    assert re.search(r"lr=good,seed=0\s+finished", done.stdout)
    parents, children = ablation_runs(tmp_path)
    assert {run.data.tags[names.ARM]: run.info.status for run in children} == {
        "lr=good": "FINISHED",
        "lr=absurd": "FAILED",
    }
    assert parents[0].info.status == "FAILED"


MISTAKES = {
    "unknown ablation": (["ablation=lrclip"], "unknown ablation; did you mean lr_clip? There are "),
    "an ablation like none": (["ablation=zzzzzz"], "unknown ablation; there are "),
    "unknown setting": (["optim.learning_rate=1"], "optim.learning_rate: unknown setting"),
    "not an override": (["lr_clip"], "not an override"),
    "wrong type": (["optim.lr=fast"], "optim.lr='fast': must be float"),
    "missing data root": (["data=coco", "data.root=/nowhere"], "data.root=/nowhere: there is no such folder"),
    "level that names no setting": (
        ["+ablation.factors.a={x: ['optim.nothing=1']}", "+ablation.baseline.a=x"],
        "optim.nothing: unknown setting",
    ),
    "seeds that are no integers": (["seeds=[0,one]"], "give a list of integers"),
    "repeated seed": (["seeds=[0,0]"], "a seed stands twice"),
    "accumulation of 0": (["train.accumulate=0"], "train.accumulate=0: must be at least 1"),
    "horizon without unit": (["horizon=600"], "give a positive length with its unit"),
    "setting that the arms vary": (["ablation=lr_clip", "optim.clip_norm=3"], "varied by the factor 'clip'"),
    "weights that are not there": (["model.pretrained=/nowhere.pth"], "/nowhere.pth: there is no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_in_one_sentence(answer, mistake):
    overrides, message = MISTAKES[mistake]
    code, _, error = answer("data.shapes_num_train=2", "data.shapes_num_val=2", "horizon=1 steps", *overrides)
    assert code == 2
    assert message in error and error.startswith("error: ")


def test_a_backend_that_is_not_installed_is_told_before_any_run(answer, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    settings = ("data.shapes_num_train=2", "data.shapes_num_val=2", "horizon=1 steps")
    code, _, error = answer(*settings, "evaluation.backend=faster-coco-eval")
    assert code == 2 and "pip install faster-coco-eval" in error


def test_a_mistake_ends_the_command_without_traceback(tmp_path, command):
    done = command(tmp_path, "optim.lr=fast")
    assert done.returncode == 2 and done.stderr.startswith("error: optim.lr") and "Traceback" not in done.stderr


@pytest.fixture
def coco_folder(tmp_path):
    """Two images with a box each, as train and val."""
    root = tmp_path / "coco"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for i in (1, 2):
            Image.fromarray(np.full((40, 50, 3), 90 * i, np.uint8)).save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 50, "height": 40})
            annotations.append({"id": i, "image_id": i, "category_id": 7, "bbox": [5, 5, 20, 20]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "thing"}]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def coco_overrides(root: Path) -> list[str]:
    names = {
        "train_annotations": "train.json",
        "val_annotations": "val.json",
        "train_images": "train",
        "val_images": "val",
    }
    settings = [f"data.{key}={value}" for key, value in names.items()]
    return ["data=coco", f"data.root={root}", "data.image_size=40", "data.max_size=50", "horizon=1 steps", *settings]


def drop_key(root: Path) -> None:
    content = json.loads((root / "train.json").read_text())
    del content["annotations"][1]["bbox"]
    (root / "train.json").write_text(json.dumps(content))


FAULTS = {
    "annotations are not JSON": (lambda root: (root / "train.json").write_text("{"), "train.json: not a JSON file"),
    "a key is missing": (drop_key, "annotations[1] lacks bbox"),
    "an image is missing": (lambda root: (root / "train" / "2.png").unlink(), "2.png: the image file is missing"),
    "an image is corrupt": (
        lambda root: (root / "val" / "1.png").write_bytes(b"no image"),
        "1.png: not a readable image",
    ),
    "an image is cut off": (
        lambda root: (root / "train" / "1.png").write_bytes((root / "train" / "1.png").read_bytes()[:60]),
        "1.png: not a readable image",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_data_are_found_before_training(coco_folder, tmp_path, answer, fault):
    damage, message = FAULTS[fault]
    damage(coco_folder)
    code, _, error = answer(*coco_overrides(coco_folder))
    assert code == 2 and message in error
    assert not list((tmp_path / "runs").glob("single-*"))


def test_a_broken_yaml_file_is_named_with_its_line(tmp_path, monkeypatch):
    from detr.errors import InputError
    from experiments.definition import compose

    shutil.copytree(compose.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "ablation" / "broken.yaml").write_text("# @package _global_\nablation:\n  name: [oops\n")
    monkeypatch.setattr(compose, "CONF", tmp_path / "conf")
    with pytest.raises(InputError, match=r"broken\.yaml, line \d"):
        compose.compose(["ablation=broken"])


def test_help_lists_choices_and_settings(command, tmp_path):
    text = command(tmp_path, "--help").stdout
    assert all(part in text for part in ("lr_clip", "recipe_factorial", "detr_r50", "optim.clip_norm=0.1", "seeds=[0]"))
    assert "launcher.hours=24.0 " in text and "docs/ablations.md explains" in text


def test_bring_your_own_data(coco_folder, tmp_path, command):
    settings = ("model.hidden_dim=32", "train.batch_size=2", "launcher=local")
    done = command(tmp_path / "store", *coco_overrides(coco_folder), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 images, 2 boxes, 1 classes" in done.stdout
