"""The reader on a store made by hand."""

import json
from dataclasses import replace

import pytest

from experiments.results.reading.ablations import (
    earlier_runs,
    load_ablation,
    load_annotations,
    load_predictions,
    load_records,
    newest_ablation,
    report_folder,
)
from experiments.schema import names
from experiments.schema.metrics import AP
from experiments.schema.store import StoreError

ARM = "recipe=abbreviated,clip=1.0"


@pytest.fixture(scope="module")
def parent(stored):
    return stored.ablation(2, missing=((ARM, 1),), failed=((ARM, 0),), silent=(("recipe=official,clip=1.0", 0),))


def test_runs_come_in_the_designs_order_with_their_levels_and_latest_metrics(stored, parent):
    results = load_ablation(stored.store, parent)
    assert results.runs[["arm", "seed"]].values.tolist() == [
        [arm, seed] for arm in results.design.arms for seed in (0, 1) if (arm, seed) != (ARM, 1)
    ]
    assert results.runs["clip"].tolist() == [arm.rpartition("=")[2] for arm in results.runs["arm"]]
    assert results.runs["train/loss"].notna().tolist() == (results.runs["state"] == "finished").tolist()
    assert (len(results.finished), results.design.num_runs) == (6, 8)
    assert results.params[results.runs["run_id"][0]]["model.hidden_dim"] == "32"
    assert results.runs["error"].iloc[-1].startswith("NonFiniteLoss")


def test_a_run_that_was_made_anew_replaces_the_old_one(stored):
    parent = stored.ablation(1)
    stored.child(parent, ARM, {"recipe": "abbreviated", "clip": "1.0"}, 0, failed=True, silent=True)
    results = load_ablation(stored.store, parent)
    assert results.runs.loc[results.runs["arm"] == ARM, "state"].tolist() == ["failed"]


def test_files_of_runs(stored, parent):
    results = load_ablation(stored.store, parent)
    by_arm = results.runs.set_index(["arm", "seed"])["run_id"]
    assert json.loads(load_annotations(stored.store, results).read_text()) == stored.content
    found = load_predictions(stored.store, by_arm["recipe=official,clip=0.1", 0])
    assert {d["image_id"] for d in json.loads(found.read_text())} == {i["id"] for i in stored.content["images"]}
    assert load_predictions(stored.store, by_arm["recipe=official,clip=1.0", 0]) is None


def test_records_join_an_evaluation_to_its_step(stored, parent):
    run_id = load_ablation(stored.store, parent).runs["run_id"][0]
    records = load_records(stored.store, run_id)
    assert records["step"].tolist() == list(range(1, 21))
    assert records["val/loss"].notna().sum() == 5 and records["train/loss"].notna().all()


def test_the_newest_ablation_is_found_by_name(stored, parent):
    other = stored.ablation(1, name="other")
    assert newest_ablation(stored.store) == newest_ablation(stored.store, "other") == other
    assert newest_ablation(stored.store, "lr_clip") not in (None, other)
    assert newest_ablation(stored.store, "nothing") is None
    assert report_folder(stored.store, other).parents[1] == stored.folder / "runs"


def test_a_reader_makes_no_database(stored, tmp_path):
    nowhere = replace(stored.store, tracking_uri=f"sqlite:///{tmp_path}/none.db")
    assert newest_ablation(nowhere) is None and earlier_runs(nowhere, [AP]).empty
    assert not (tmp_path / "none.db").exists()


def test_earlier_runs_are_the_finished_ones_with_their_settings(stored, parent):
    found = earlier_runs(stored.store, [AP])
    assert {"run_id", "arm", "seed", "fingerprint", "val/AP", "model.hidden_dim"} <= set(found)
    ours = load_ablation(stored.store, parent)
    assert set(ours.finished["run_id"]) <= set(found["run_id"])
    assert not set(ours.runs["run_id"]) - set(ours.finished["run_id"]) & set(found["run_id"])
    assert found["seed"].dtype.kind == "i" and names.ARM not in found


def test_a_run_with_a_damaged_tag_is_told(stored):
    parent = stored.ablation(1)
    run_id = load_ablation(stored.store, parent).runs["run_id"].iloc[0]
    stored.client.set_tag(run_id, names.SEED, "many")
    with pytest.raises(StoreError, match=f"the run {run_id} is damaged: the tag detr.seed must be a whole number"):
        load_ablation(stored.store, parent)
