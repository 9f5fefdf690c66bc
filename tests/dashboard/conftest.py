"""Pages run by AppTest on stores made by hand."""

import sys

import pytest
from stored import Builder
from streamlit.testing.v1 import AppTest

import dashboard.data as cached


def script(view: str) -> None:
    """What app.py does for one page."""
    import importlib

    from dashboard import choices, states

    with states.told():
        choices.pick_ablation()
        importlib.import_module(f"dashboard.views.{view}").render()


@pytest.fixture(autouse=True)
def same_main(monkeypatch):
    """AppTest leaves its script as `__main__`, which processes that later tests start would run again."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A builder of ablations in a store of the pages' own."""
    return Builder(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture
def page(stored, monkeypatch):
    """Run one view: `page("curves", parent_run_id, {"threshold": "0.75"})` returns the AppTest after its run; `store`
    is another builder.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)

    def run(view: str, ablation: str = "", address: dict | None = None, store: Builder = stored) -> AppTest:
        monkeypatch.setenv("DETR_STORE", str(store.folder / "mlflow.yaml"))
        test = AppTest.from_function(script, kwargs={"view": view}, default_timeout=60)
        if ablation:
            known = cached.ablations()
            test.query_params["ablation"] = known.set_index("run_id")["label"][ablation]
        for key, value in (address or {}).items():
            test.query_params[key] = value
        test.run()
        assert not test.exception, test.exception[0].stack_trace
        return test

    return run
