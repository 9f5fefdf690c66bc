"""The command that runs all benchmarks."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from experiments.results.reading.stored_design import fault

from benchmarks.__main__ import ALL, FOLDER, main
from benchmarks.diagnostics import configuration
from benchmarks.gpu import SIDES, equality, input_pipeline, training_step
from benchmarks.growth import grown
from benchmarks.overhead import NOWHERE, in_turns, store_at, vain_uploads
from benchmarks.plain_detr import PlainDETR
from benchmarks.scaling import folders
from benchmarks.table import Entry
from detr.config import ModelConfig
from detr.models import build_model
from experiments.schema.names import DESIGN
from experiments.tracking.client import configure_mlflow


@pytest.fixture
def configured():
    """As the entry point does: a server that is away holds nobody up for long."""
    configure_mlflow()


ENTRY = Entry("step", "peer", "one step", 2.0, 0.1, "1.25 x", {"ours (ms)": 3.0})


def test_a_benchmark_that_fails_is_a_line_and_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def broken():
        yield ENTRY
        raise ImportError("no module named 'peer'")

    monkeypatch.setitem(sys.modules, "benchmarks.broken", SimpleNamespace(entries=broken))
    monkeypatch.setitem(sys.modules, "benchmarks.sound", SimpleNamespace(entries=lambda: iter([ENTRY])))
    assert main(["broken", "sound"], tmp_path / "results") == 1
    rows = json.loads((tmp_path / "results/table.json").read_text())["entries"]
    assert [row.get("ratio") for row in rows] == [2.0, None, 2.0]
    assert "no module named 'peer'" in (tmp_path / "results/table.md").read_text()
    assert "ours (ms) 3" in capsys.readouterr().out
    assert main(["sound"], tmp_path / "results") == 0


def test_a_missing_peer_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.__main__.PEERS", ("torch", "no_such_peer"))
    assert main(["losses"], tmp_path / "results") == 2
    assert capsys.readouterr().err == "error: no_such_peer cannot be imported; pip install -e '.[bench]'\n"
    assert not (tmp_path / "results").exists()


def test_every_benchmark_with_entries_is_run():
    having = {path.stem for path in FOLDER.glob("*.py") if "def entries(" in path.read_text()}
    assert having == {*ALL, "gpu"}  # `make gpu` runs that one


@pytest.mark.parametrize("side", SIDES)
def test_the_steps_of_the_gpu_benchmark_train_in_bfloat16(side):
    """On the CPU, where they are slow and nothing is measured."""
    step = training_step(side, torch.device("cpu"), "bfloat16", size=(64, 96))
    step()


def test_the_gpu_benchmark_compares_with_the_cpu():
    exact, *rough = equality(torch.device("cpu"), size=(64, 96))
    assert exact.ratio == 0 and [entry.ratio > 0 for entry in rough] == [False, True]  # a CPU has no TF32


def test_the_gpu_benchmark_tells_what_waits_for_data():
    small = ModelConfig(backbone="small", pretrained=False, hidden_dim=32, num_classes=None)
    entry = next(input_pipeline(torch.device("cpu"), small, side=64, num_steps=6))
    assert 0 < entry.ratio < 1 and entry.figures["data_time (s)"] < entry.figures["step_time (s)"]


def test_the_store_of_many_runs_holds_designs_that_the_reader_takes(tmp_path):
    ((above, _),) = folders(tmp_path, count=4, arms=4)
    assert not fault(json.loads((above / DESIGN).read_text()))


@pytest.mark.usefixtures("configured")
def test_the_overhead_is_that_of_one_training_which_mlflow_has(tmp_path):
    config = configuration(tmp_path, 2, evaluations=2, num_val=4, every=1)
    parts = in_turns(config, store_at(tmp_path / "store"))
    assert len(parts) == 2 and all(both > 0 and alone > 0 for both, alone in parts)
    with pytest.raises(AssertionError, match="has not got everything"):
        in_turns(config, store_at(tmp_path / "nowhere", NOWHERE))
    training, uploading = vain_uploads(config, store_at(tmp_path / "down", NOWHERE), steps=1)
    assert 0 < uploading < training
    with pytest.raises(AssertionError, match="MLflow was there"):
        vain_uploads(config, store_at(tmp_path / "up"), steps=1)


def test_growth_is_told_as_a_share_of_linear_growth():
    assert grown({100: 2.0, 1000: 5.0, 10_000: 20.0}) == 0.1
    assert grown({5: 1.0, 100: 20.0}) == 1.0


def test_the_plain_model_is_the_same_function():
    model, plain = build_model(ModelConfig(pretrained=False, num_queries=100)).eval(), PlainDETR().eval()
    plain.load_ours(model.state_dict())
    images, mask = torch.rand(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, 70:] = True
    with torch.no_grad():
        ours, theirs = model(images, mask), plain(images, mask)
    for key in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(theirs[key], ours[key], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(theirs["aux_outputs"][0][key], ours["aux_outputs"][0][key], rtol=1e-4, atol=1e-4)
