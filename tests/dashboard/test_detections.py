"""The page of detections: its figures against pycocotools, its choices, and everything that can be missing."""

import json

import pytest
from reference import counts, evaluated
from stored import CLASSES

from dashboard.gallery import document
from experiments.results.reading.ablations import load_ablation, load_predictions

FIRST, SECOND = "recipe=official,clip=0.1", "recipe=official,clip=1.0"  # the primary contrast's


@pytest.fixture(scope="module")
def ablation(stored):
    return stored.ablation(2, name="detections")


def files(stored, ablation, seed=0):
    """arm -> its detections."""
    done = load_ablation(stored.store, ablation).finished
    runs = done[done["seed"] == seed].set_index("arm")["run_id"]
    return {arm: json.loads(load_predictions(stored.store, run).read_text()) for arm, run in runs.items()}


def table(test):
    """arm -> hits, false alarms, misses."""
    frame = test.dataframe[0].value.set_index("arm")
    return {arm: tuple(row) for arm, row in frame[["hits", "false alarms", "misses"]].iterrows()}


def gallery(test) -> str:
    return json.loads(test.get("bidi_component")[0].proto.json)


def says(test) -> str:
    """All that the page says about its state."""
    return " ".join(one.value for one in (*test.info, *test.warning, *test.error)).replace("\\", "")


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.0])
def test_figures_at_a_threshold_are_those_of_pycocotools(stored, ablation, page, threshold):
    test = page("detections", ablation, {"threshold": str(threshold)})
    found = files(stored, ablation)
    assert table(test) == {arm: counts(evaluated(stored.content, found[arm]), threshold) for arm in (FIRST, SECOND)}
    hits, false_alarms, misses = table(test)[FIRST]
    row = test.dataframe[0].value.iloc[0]
    assert row["precision"] == (f"{hits / (hits + false_alarms):.3f}" if hits + false_alarms else "–")
    assert row["recall"] == f"{hits / (hits + misses):.3f}"


def test_marks_set_the_threshold(ablation, page):
    test = page("detections", ablation)
    assert test.slider(key="threshold").value == 0.5
    for label, value in (("0.75", 0.75), ("none", 0.0), ("0.50", 0.5)):
        test.button(key=f"mark-{label}").click().run()
        assert test.slider(key="threshold").value == value


def test_arms_seed_classes_and_size_come_from_the_address(stored, ablation, page):
    address = {"arms": "recipe=abbreviated,clip=1.0", "seed": "1", "classes": CLASSES[2], "size": "large"}
    test = page("detections", ablation, address)
    found = files(stored, ablation, seed=1)["recipe=abbreviated,clip=1.0"]
    reference = evaluated(stored.content, found, catIds=[3], areaRng=[[300, 1e10]])  # the runs' own area limits
    assert table(test) == {"recipe=abbreviated,clip=1.0": counts(reference, 0.5)}
    assert sum(counts(reference, 0.5)) > 0


def test_pictures_show_each_arm_and_names_are_no_code(stored, ablation, page):
    content = gallery(page("detections", ablation))
    assert content.count('class="card"') == len(stored.content["images"])
    assert content.count(">clip=0.1</p>") == content.count(">clip=1.0</p>") == len(stored.content["images"])
    assert "<script" not in content and "&lt;script&gt;" in content
    assert ">ground truth</p>" not in content
    assert ">ground truth</p>" in gallery(page("detections", ablation, {"apart": "true"}))


def test_pictures_leave_the_page_in_a_file_of_their_own():
    page = document(":root { --image-0: url(data:image/png;base64,AA); }", '<div class="cards"></div>')
    assert "--image-0" in page and '<div class="cards">' in page and ".scene" in page
    assert "http" not in page and "<script" not in page


def test_only_images_with_what_is_shown(stored, ablation, page):
    test = page("detections", ablation, {"show": "miss", "arms": FIRST})
    missed = evaluated(stored.content, files(stored, ablation)[FIRST])
    assert table(test)[FIRST] == counts(missed, 0.5)  # the figures stay
    content = gallery(test)
    assert 'class="box hit"' not in content.partition('class="cards')[2]
    assert 0 < content.count('class="card"') <= counts(missed, 0.5)[2]


def test_images_by_misses(ablation, page):
    content = gallery(page("detections", ablation, {"order": "misses", "arms": FIRST, "threshold": "0.7"}))
    misses = [int(part.split(" miss")[0].split()[-1]) for part in content.split('<p class="count">')[1:]]
    assert misses == sorted(misses, reverse=True) and misses[0] > misses[-1]


def test_one_image_and_the_way_on(ablation, page):
    test = page("detections", ablation, {"image": "3"})
    content = gallery(test)
    assert content.count('class="card"') == 1 and "3.png" in content and "data-image" not in content
    next_one = next(button for button in test.button if button.label == "Next")
    next_one.click().run()
    assert test.text_input(key="image").value == "4" and "4.png" in gallery(test)
    next(button for button in test.button if button.label == "All images").click().run()
    assert gallery(test).count('class="card"') == 8


def test_an_image_that_is_not_there(ablation, page):
    test = page("detections", ablation, {"image": "<img src=x>"})
    assert "There is no image '<img src=x>'" in says(test)
    assert gallery(test).count('class="card"') == 8


def test_a_page_beyond_the_last(ablation, page):
    assert gallery(page("detections", ablation, {"page": "9"})).count('class="card"') == 8


def test_missing_images_have_a_placeholder(stored, tmp_path, page):
    content = gallery(page("detections", stored.ablation(1, images=str(tmp_path))))
    assert content.count("the image file is missing") == 16  # two arms
    assert content.count('class="box') > 16  # and the boxes are there


def test_arms_without_detections_are_named_and_the_others_shown(stored, page):
    parent = stored.ablation(1, silent=((FIRST, 0),), failed=(("recipe=abbreviated,clip=0.1", 0),))
    test = page("detections", parent)
    assert f"{FIRST}, seed 0: no detections were stored" in says(test) and list(table(test)) == [SECOND]
    test = page("detections", parent, {"arms": "recipe=abbreviated,clip=0.1"})
    assert "recipe=abbreviated,clip=0.1, seed 0 is failed: it has no detections yet" in says(test)
    assert "Choose at least one arm" in says(test) and not test.dataframe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"image_id": 1, "cat', "predictions.json is damaged or half-written"),
        ('{"image_id": 1}', "the stored predictions are damaged"),
        ("[]", ""),
        ('[{"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.9}]', "1 stored detections of images"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [NaN, 0, 1e400, 1], "score": 0.9}]', "whose box is impossible"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": NaN}]', "whose score is not a number"),
    ],
)
def test_damaged_predictions_have_a_word(stored, tmp_path, page, text, words):
    parent = stored.ablation(1)
    runs = load_ablation(stored.store, parent).finished.set_index("arm")["run_id"]
    (tmp_path / "predictions.json").write_text(text)
    stored.client.log_artifact(runs[FIRST], str(tmp_path / "predictions.json"))
    test = page("detections", parent)
    assert words in says(test) and SECOND in table(test)
    if "stored detections" in words or not words:
        assert table(test)[FIRST] == (0, 0, 16)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "annotations_val.json is damaged or half-written"),
        ('{"images": []}', "the stored annotations are damaged"),
        ('{"images": [], "annotations": [], "categories": []}', "hold no image"),
    ],
)
def test_damaged_annotations_have_a_word(stored, tmp_path, page, text, words):
    parent = stored.ablation(1)
    (tmp_path / "annotations_val.json").write_text(text)
    stored.client.log_artifact(parent, str(tmp_path / "annotations_val.json"))
    assert words in says(page("detections", parent))
