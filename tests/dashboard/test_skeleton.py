"""The frame of all pages."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).resolve().parents[2] / "dashboard/app.py"


def says(test) -> str:
    """All that the page says about its state."""
    return " ".join(one.value for one in (*test.info, *test.warning, *test.error)).replace("\\", "")


@pytest.fixture
def other(tmp_path):
    """A store that a test breaks: nothing but a copy of mlflow.yaml."""
    shutil.copy(APP.parents[1] / "mlflow.yaml", tmp_path)
    return SimpleNamespace(folder=tmp_path)


def test_the_app_opens_on_the_ablation_page(stored, page):
    stored.ablation(1)
    page("ablation")  # sets the store
    test = AppTest.from_file(str(APP), default_timeout=60).run()
    assert not test.exception and test.subheader[0].value == "AP by arm"


@pytest.mark.parametrize("view", ["ablation", "curves", "detections", "thresholds", "why", "compare"])
def test_an_empty_store_says_what_to_run_and_is_not_created(other, page, view):
    test = page(view, store=other)
    assert "No ablation has been run yet" in says(test)
    assert test.code[0].value == "python experiments/run.py ablation=lr_clip"
    assert [path.name for path in other.folder.iterdir()] == ["mlflow.yaml"]


def test_a_tracking_server_that_is_down_is_one_sentence(stored, page, monkeypatch):
    page("ablation")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be read" in says(page("ablation"))


def test_a_password_in_the_address_of_the_store_is_not_shown(stored, page, monkeypatch):
    page("ablation")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    said = says(page("ablation"))
    assert "MLFLOW_TRACKING_PASSWORD" in said and "secret" not in said
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", "postgresql+nodriver://someone:secret@127.0.0.1:9/mlflow"
    )  # tried at once
    said = says(page("ablation"))
    assert "//someone@127.0.0.1:9/mlflow cannot be read" in said and "secret" not in said


def test_a_damaged_database_is_one_sentence(other, page):
    (other.folder / "store").mkdir()
    (other.folder / "store/mlflow.db").write_text("no database" * 500)
    assert "cannot be read as MLflow's database" in says(page("curves", store=other))


def test_a_wrong_mlflow_yaml_is_one_sentence(other, page):
    (other.folder / "mlflow.yaml").write_text("tracking_uri: [1]")
    assert "tracking_uri must be a str" in says(page("compare", store=other))


@pytest.mark.parametrize(("content", "state"), [(None, "is missing"), ('{"name": "lr_', "is not complete")])
def test_an_ablation_whose_design_is_half_written_is_one_sentence(stored, page, content, state):
    parent = stored.ablation(1)
    path = stored.folder / "artifacts" / parent / "artifacts/ablation.json"
    path.write_text(content) if content else path.unlink()
    assert f"ablation.json of the ablation {parent} {state}" in says(page("ablation", parent))


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
