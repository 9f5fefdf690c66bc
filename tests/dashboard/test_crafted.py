"""A store that means harm, through reader, report and every page: nothing is executed, read elsewhere or broken."""

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from stored import STEPS, Builder

from experiments.results.evidence import gather
from experiments.results.reading.ablations import load_ablation
from experiments.results.report.ablation_report import render
from experiments.schema import names
from experiments.schema.store import load_store

ROOT = Path(__file__).resolve().parents[2]
VIEWS = sorted(path.stem for path in (ROOT / "dashboard/views").glob("*.py") if path.stem != "__init__")
SCRIPT = "<script>alert(1)</script>"
OUTSIDE = ("secret.png", "link.png")  # a picture outside of the folder of images, and a link to it
OPENED: list[str] = []  # files of these names


@sys.addaudithook
def note(event: str, arguments: tuple) -> None:
    """An audit hook stays for the life of the process; it sees every file that is opened."""
    if event == "open" and str(arguments[0]).endswith(OUTSIDE):
        OPENED.append(str(arguments[0]))


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory) -> tuple[Builder, str, Path]:
    """The store, the ablation's run, and the folder that must not come into being."""
    folder = tmp_path_factory.mktemp("crafted")
    builder, canary = Builder(folder), folder / "unpickled"
    Image.new("RGB", (64, 48)).save(folder / "secret.png")
    (folder / "val/link.png").symlink_to(folder / "secret.png")
    images = builder.content["images"]
    images[0]["file_name"], images[1]["file_name"], images[2]["file_name"] = (
        "../secret.png", "link.png", str(folder / "secret.png"))  # fmt: skip
    arms = {SCRIPT: {"recipe": "official", "clip": "0.1"}, "../../up": {"recipe": "official", "clip": "1.0"},
            "'; DROP TABLE runs; --": {"recipe": "abbreviated", "clip": "0.1"}}  # fmt: skip
    about = {"name": SCRIPT, "question": f"{SCRIPT} <img src=x onerror='alert(2)'>", "baseline": SCRIPT}
    parent = builder.ablation(1, arms=arms, settings={arm: {"x": 1} for arm in arms}, primary=None, **about)
    runs = builder.client.search_runs([builder.experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    for run, name in zip(runs, (names.PREDICTIONS, names.RECORDS, "attention.safetensors"), strict=True):
        path = folder / "artifacts" / run.info.run_id / "artifacts" / name
        path.write_bytes(pickle.dumps(Canary(canary)))
        builder.client.log_metric(run.info.run_id, "val/AP", 1e308, step=STEPS + 1)
    return builder, parent, canary


def test_the_canary_would_sing_and_the_hook_would_hear(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()
    (tmp_path / "secret.png").touch()
    (tmp_path / "secret.png").read_bytes()
    assert OPENED


@pytest.fixture(autouse=True)
def nothing_opened(crafted):
    """The store is made, and what the hook heard of that forgotten."""
    OPENED.clear()


def test_the_reader_and_the_report(crafted):
    builder, parent, canary = crafted
    store = load_store(builder.folder / "mlflow.yaml")
    assert len(load_ablation(store, parent).runs) == 3
    pages = render(gather(store, parent, replicates=10))
    assert "<script>alert" not in pages["report.html"] and "<img src=x" not in pages["report.html"]
    assert not canary.exists() and not OPENED


@pytest.mark.parametrize("view", VIEWS)
def test_every_page(crafted, page, view):
    builder, parent, canary = crafted
    test = page(view, parent if view != "sweeps" else "", store=builder)
    raw = [one.value for one in (*test.markdown, *test.caption) if re.search(r"(?<!\\)<(script|img)", one.value)]
    assert not raw, raw
    assert not canary.exists() and not OPENED
