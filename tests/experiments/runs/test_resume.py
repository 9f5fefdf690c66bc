"""A run that is stopped, killed or cut off anywhere, and resumed, ends as one that was not, bit for bit."""

import signal
from pathlib import Path

import pytest
from injection import worker
from outcomes import outcome, untimed

from detr.checkpoint import checkpoints

TERM, INT, USR1, USR2, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(make_run, tmp_path_factory):
    """A run in one go."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "mlflow.yaml").write_text(
        (Path(__file__).parents[3] / "mlflow.yaml")
        .read_text()
        .replace("sqlite:///store/mlflow.db", "http://127.0.0.1:9")
    )
    directory = make_run(folder / "runs")
    assert worker(directory.path, folder / "mlflow.yaml") == 0
    return directory


# A step takes two micro-batches of the six images: every cut is in the middle of an epoch.
CUTS = [
    ([TERM], "micro-batch", 4),  # with half of the gradient of step 2
    ([INT], "micro-batch", 4),
    ([USR1], "micro-batch", 7),  # of step 3; the checkpoint is of step 2
    ([USR2], "micro-batch", 7),
    ([TERM, TERM], "micro-batch", 7),  # interrupted at once, without a checkpoint
    ([KILL], "micro-batch", 1),
    ([KILL], "micro-batch", 4),
    ([KILL], "micro-batch", 7),
    ([KILL], "record", 2),  # before the record of step 2 is written
    ([KILL], "record", 3),  # between an evaluation and its record
    ([KILL], "validation", 2),
    ([TERM], "validation", 1),
    *(([KILL], "flush", count) for count in (1, 3, 6)),  # while the best weights and the checkpoint are saved
    ([KILL], "clean-up", 2),
]


@pytest.mark.parametrize(("signals", "place", "count"), CUTS, ids=lambda x: str(x) if not isinstance(x, list) else None)
def test_a_run_that_was_cut_ends_like_one_that_was_not(
    make_run, uninterrupted, nowhere, tmp_path, signals, place, count
):
    directory = make_run(tmp_path / "runs")
    code = worker(directory.path, nowhere, place, count, [int(x) for x in signals])
    assert code == (-KILL if KILL in signals else 3)
    before = (directory.path / "records.jsonl").read_bytes() if directory.records.size else b""
    assert worker(directory.path, nowhere) == 0
    assert (directory.path / "records.jsonl").read_bytes().startswith(before)
    assert untimed(directory) == untimed(uninterrupted)
    assert outcome(directory) == outcome(uninterrupted)
    assert directory.status["state"] == "finished"


def test_a_run_that_is_killed_again_and_again_ends_all_the_same(make_run, uninterrupted, nowhere, tmp_path):
    directory = make_run(tmp_path / "runs", data={"num_workers": 2})
    for place, count in (("record", 3), ("flush", 2), ("micro-batch", 2), ("record", 4), ("validation", 1)):
        assert worker(directory.path, nowhere, place, count, [int(KILL)]) == -KILL
    assert worker(directory.path, nowhere) == 0
    assert untimed(directory) == untimed(uninterrupted)
    assert outcome(directory) == outcome(uninterrupted)


def test_a_damaged_checkpoint_costs_an_interval_and_is_told(make_run, uninterrupted, nowhere, tmp_path):
    directory = make_run(tmp_path / "runs")
    assert worker(directory.path, nowhere, "micro-batch", 8, [int(KILL)]) == -KILL
    last = checkpoints(directory.path / "checkpoints")[-1] / "state.pt"
    last.write_bytes(last.read_bytes()[:-100])
    assert worker(directory.path, nowhere) == 0
    assert untimed(directory) == untimed(uninterrupted)
    assert outcome(directory) == outcome(uninterrupted)
    (warning,) = directory.status["warnings"]
    assert "state.pt: damaged" in warning and "the checkpoint before it" in warning


def test_records_that_a_power_failure_took_are_made_again(make_run, uninterrupted, nowhere, tmp_path):
    """The checkpoint of step 4 is there, and the records end in the middle of those of step 2."""
    directory = make_run(tmp_path / "runs")
    assert worker(directory.path, nowhere) == 0
    directory.update(state="running")
    records = directory.path / "records.jsonl"
    first, second = records.read_bytes().splitlines(keepends=True)[:2]
    records.write_bytes(first + second[:40])
    assert worker(directory.path, nowhere) == 0
    assert untimed(directory) == untimed(uninterrupted)
    assert outcome(directory) == outcome(uninterrupted)
