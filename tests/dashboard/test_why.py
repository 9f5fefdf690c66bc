"""The page Why: what explains an arm, and what it says where a run did not store it."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.results.reading.ablations import load_ablation
from experiments.results.signals import SECTIONS
from experiments.schema import names

BASE, OTHER = "recipe=official,clip=0.1", "recipe=official,clip=1.0"  # the primary contrast's first pair


def add_maps(stored, parent, images=(2, 5), queries=(0, 1, 2), arms=None, text=None):
    """Attention maps of every run of these arms, or what `text` says in their place."""
    tensors = {}
    for number in range(len(images)):
        tensors[f"{number}.weights"] = np.full((len(queries), 6, 8), 1 / 48, dtype=np.float16)
        tensors[f"{number}.query"] = np.array(queries, dtype=np.int16)
        tensors[f"{number}.extent"] = np.ones(2, dtype=np.float32)
    path = stored.folder / "scratch" / names.ATTENTION
    save_file(tensors, path, {"images": json.dumps(list(images)), "layer": "1", "step": "20"})
    if text:
        path.write_text(text)
    for run in load_ablation(stored.store, parent).runs.itertuples():
        if arms is None or run.arm in arms:
            stored.client.log_artifact(run.run_id, str(path))


def words(test) -> str:
    """All that the page says, without the marks of Markdown."""
    texts = (*test.markdown, *test.caption, *test.warning, *test.error, *test.info, *test.title)
    return " ".join(one.value for one in texts).replace("\\", "")


@pytest.fixture(scope="module")
def parent(stored):
    made = stored.ablation(2, silent=(("recipe=abbreviated,clip=1.0", 0), ("recipe=abbreviated,clip=1.0", 1)))
    add_maps(stored, made)
    return made


def test_reasons_are_those_of_the_verdicts(page, parent):
    shown = words(page("why", parent))
    assert "clip 1.0 against 0.1: undecided" in shown
    assert "every step was clipped in all arms (100 %, 100 %), and AdamW cancels a constant scale" in shown
    assert "under-trained: 4 of 8 runs" in shown
    table = page("why", parent).dataframe[0].value
    assert table["condition"].tolist() == ["under-trained"] * 2 and table["runs"].tolist() == ["2", "2"]


def test_every_logged_signal_has_a_panel_with_its_help(page, parent):
    test = page("why", parent, {"topic": "Training signals"})
    helped = {one.value.strip("*").replace("\\", ""): one.help for one in test.markdown if one.help}
    assert "clipped steps, share so far" in helped and "attention entropy, layer 1" in helped
    assert len(helped) == len(test.get("plotly_chart")) == 7
    assert all(len(text) > 30 for text in helped.values())
    assert [one.label for one in test.expander] == [f"docs/diagnostics.md: {section}" for section in SECTIONS]
    assert "log10" in test.expander[0].markdown[0].value


def test_an_arm_that_is_taken_out_leaves_the_curves(page, parent):
    test = page("why", parent, {"topic": "Training signals", "arms": [BASE, OTHER]})
    lines = [json.loads(one.proto.spec)["data"] for one in test.get("plotly_chart")]
    assert {trace["legendgroup"] for traces in lines for trace in traces} == {BASE, OTHER}


def test_runs_without_diagnostics_say_how_to_get_them(page, stored, monkeypatch):
    import stored as builders

    made = builders.records

    def silent(arm, seed, final):
        lines = made(arm, seed, final)
        return [line | {"metrics": {k: v for k, v in line["metrics"].items() if "val/" in k}} for line in lines]

    monkeypatch.setattr(builders, "records", silent)
    test = page("why", stored.ablation(1), {"topic": "Training signals"})
    assert "logged no diagnostics yet" in words(test)
    assert test.code[0].value == "python experiments/run.py ablation=lr_clip fresh=true"


def test_no_finished_run_is_a_state_of_its_own(page, stored):
    arms = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]
    failed = stored.ablation(1, failed=tuple((arm, 0) for arm in arms))
    assert "No run of this ablation has finished yet" in words(page("why", failed))


def test_boxes_of_queries_of_two_arms(page, parent):
    test = page("why", parent, {"topic": "Boxes of queries"})
    assert test.selectbox(key="arm").value == OTHER and test.selectbox(key="beside").value == BASE
    drawn = [json.loads(one.proto.spec) for one in test.get("plotly_chart")]
    assert len(drawn) == 2
    titles = [note["text"] for note in drawn[0]["layout"]["annotations"]]
    assert len(titles) == 3 and titles[2] == "query 2 (0.30)"  # the least sure is last
    points = [point for trace in drawn[0]["data"] for point in trace.get("customdata", [])]
    assert sorted(image for image, _ in points) == sorted(3 * list(range(1, 9)))
    assert "Boxes in all 8 images." in words(test)


def test_one_arm_alone(page, parent):
    test = page("why", parent, {"topic": "Boxes of queries", "beside": "–"})
    assert len(test.get("plotly_chart")) == 1


def test_an_arm_without_predictions_says_so(page, parent):
    test = page("why", parent, {"topic": "Boxes of queries", "beside": "recipe=abbreviated,clip=1.0"})
    assert "No detections were stored by recipe=abbreviated,clip=1.0" in words(test)
    assert len(test.get("plotly_chart")) == 1


def test_attention_of_a_chosen_detection_and_of_the_one_that_lies_on_it(page, parent):
    test = page("why", parent, {"topic": "Attention maps"})
    image, detection = test.selectbox(key="picture"), test.selectbox(key="query")
    assert image.options == ["2.png", "5.png"]
    assert len(detection.options) == 3 and detection.options[2].startswith("<script>alert(1)</script> 0.30")
    labels = [label(one) for one in test.get("plotly_chart")]
    assert detection.options[0].startswith(labels[0].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert "lies on the chosen one" in words(test)
    test = detection.select_index(1).run()
    assert label(test.get("plotly_chart")[0]) != labels[0]
    assert label(test.get("plotly_chart")[1]) != labels[1]  # the other arm follows


def label(chart) -> str:
    return json.loads(chart.proto.spec)["layout"]["annotations"][0]["text"]


def test_maps_that_are_missing_say_how_to_get_them(page, stored):
    test = page("why", stored.ablation(1), {"topic": "Attention maps"})
    assert f"{OTHER} and {BASE} stored no attention maps" in words(test)
    assert test.code[0].value == "python experiments/run.py ablation=lr_clip fresh=true"
    made = stored.ablation(1)
    add_maps(stored, made, arms=[OTHER])
    test = page("why", made, {"topic": "Attention maps"})
    assert len(test.get("plotly_chart")) == 1 and f"{BASE} stored no attention maps" in words(test)


def test_damaged_maps_are_named(page, stored):
    made = stored.ablation(1)
    add_maps(stored, made, text="half")
    test = page("why", made, {"topic": "Attention maps"})
    assert "no attention maps" in words(test) and not test.get("plotly_chart")


def test_arms_evaluated_on_other_images_say_so(page, stored):
    made = stored.ablation(1)
    add_maps(stored, made, arms=[OTHER], images=(1,))
    add_maps(stored, made, arms=[BASE], images=(3,))
    assert "No image has attention maps in both arms" in words(page("why", made, {"topic": "Attention maps"}))


def test_arms_without_a_common_seed_say_so(page, stored):
    made = stored.ablation(2, missing=((BASE, 0),), failed=((OTHER, 1),))
    test = page("why", made, {"topic": "Boxes of queries", "arm": OTHER, "beside": BASE})
    assert f"No seed has finished in both {OTHER} and {BASE}" in words(test)
