"""The frame of all pages."""

from pathlib import Path

import pytest
from stored import Builder
from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "dashboard/app.py"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return Builder(tmp_path_factory.mktemp("empty"))


def test_the_app_opens_on_the_ablation_page(stored, page):
    stored.ablation(1)
    page("ablation")  # sets the store
    test = AppTest.from_file(str(APP), default_timeout=60).run()
    assert not test.exception and test.subheader[0].value == "AP by arm"


@pytest.mark.parametrize("view", ["ablation", "curves", "detections", "thresholds", "why"])
def test_an_empty_store_says_what_to_run(empty, page, view):
    test = page(view, store=empty)
    assert "No ablation has been run yet" in test.info[0].value.replace("\\", "")
    assert test.code[0].value == "python experiments/run.py ablation=lr_clip"


def test_a_link_to_an_ablation_that_is_gone_says_so(stored, page):
    stored.ablation(1)
    test = page("curves", address={"ablation": "lost 01234567"})
    assert "does not have" in test.warning[0].value


def test_page_opens_on_the_newest_ablation_and_the_address_names_it(stored, page):
    stored.ablation(1, name="older")
    stored.ablation(1, name="newest")
    test = page("curves")
    assert test.sidebar.selectbox[0].value.startswith("newest ")
    assert test.query_params["ablation"] == test.sidebar.selectbox[0].value


def test_a_link_opens_its_ablation(stored, page):
    parent = stored.ablation(1, name="linked")
    stored.ablation(1)
    assert page("curves", ablation=parent).sidebar.selectbox[0].value == f"linked {parent[:8]}"
