"""The page of thresholds and errors: its figures against pycocotools, its choices, and what can be missing."""

import json

import numpy as np
import pytest
from reference import counts, evaluated
from stored import CLASSES

from experiments.results.bootstrap import ap
from experiments.results.reading.ablations import load_ablation, load_predictions

ARM = "recipe=abbreviated,clip=1.0"
PARTS = ["Precision and recall", "Error types", "Classes", "Sizes", "Confusion", "Calibration"]


@pytest.fixture(scope="module")
def ablation(stored):
    return stored.ablation(2, name="thresholds")


def files(stored, ablation, arm):
    runs = load_ablation(stored.store, ablation).finished.query("arm == @arm")["run_id"]
    return [json.loads(load_predictions(stored.store, run).read_text()) for run in runs]


def says(test) -> str:
    return " ".join(one.value for one in (*test.info, *test.warning, *test.error)).replace("\\", "")


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_figures_at_a_threshold_are_those_of_pycocotools(stored, ablation, page, threshold):
    test = page("thresholds", ablation, {"threshold": str(threshold), "figures": PARTS[0]})
    row = test.dataframe[0].value.set_index("arm").loc[ARM]
    found = files(stored, ablation, ARM)
    hits, alarms, misses = np.array([counts(evaluated(stored.content, one), threshold) for one in found]).T
    recall, precision = hits / (hits + misses), hits / (hits + alarms)
    assert row["seeds"] == "2/2"
    assert row["recall"] == f"{recall.mean():.3f} ± {recall.std(ddof=1):.3f}"
    assert row["precision"] == f"{precision.mean():.3f} ± {precision.std(ddof=1):.3f}"
    assert row["AP50"].startswith(f"{100 * np.mean([ap(stored.content, one, metric='AP50') for one in found]):.1f} ±")


def test_one_class_of_one_seed(stored, ablation, page):
    test = page("thresholds", ablation, {"class": CLASSES[0], "seeds": "1", "arms": ARM, "figures": PARTS[0]})
    hits, _, misses = counts(evaluated(stored.content, files(stored, ablation, ARM)[1], catIds=[1]), 0.5)
    frame = test.dataframe[0].value
    assert frame["recall"].tolist() == [f"{hits / (hits + misses):.3f}"] and frame["seeds"].tolist() == ["1/2"]


def test_every_part_is_drawn_and_chosen_by_the_address(ablation, page):
    test = page("thresholds", ablation, {"figures": PARTS})
    assert [one.value for one in test.subheader] == PARTS
    assert len(test.get("plotly_chart")) == 6
    assert [one.value for one in page("thresholds", ablation).subheader] == PARTS[:2]


def test_numbers_of_errors_are_told_at_the_threshold(ablation, page):
    def missed(threshold):
        test = page("thresholds", ablation, {"figures": PARTS[1], "threshold": str(threshold)})
        return float(test.dataframe[0].value.set_index("arm").loc[ARM, "missed"])

    assert missed(0.95) > missed(0.5) >= missed(0)


def test_classes_need_two_arms(ablation, page):
    assert "Choose two arms" in says(page("thresholds", ablation, {"figures": "Classes", "arms": ARM}))
    same = page("thresholds", ablation, {"figures": "Classes", "arm": ARM, "against": ARM})
    assert "one and the same arm" in says(same)


def test_missing_detections_are_told(stored, page):
    parent = stored.ablation(1, silent=((ARM, 0),), failed=(("recipe=official,clip=0.1", 0),))
    test = page("thresholds", parent)
    assert f"{ARM}, seed 0: no detections were stored" in says(test) and "seed 0 is failed" in says(test)
    assert len(test.dataframe[0].value) == 2
    nothing = page("thresholds", parent, {"arms": ARM})
    assert "Choose at least one arm" in says(nothing) and not nothing.dataframe
