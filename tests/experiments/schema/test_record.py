"""A line of a journal is read strictly, and says where in its run it stands."""

import json
import math

import pytest

from experiments.schema.record import RecordLine

LENGTHS = {"num_steps": 9, "epoch": 0.5, "samples": 4, "seconds": 1.5}
LINE = RecordLine(time=1.0, step=2, metrics={"train/loss": 3.0, "train/nan": math.inf}, **LENGTHS)


@pytest.mark.parametrize(
    "line", [LINE, RecordLine(1, 2, {"val/AP": 0.5}, **LENGTHS), RecordLine(0.5, 0, {"system/cpu": 1.0})]
)
def test_a_line_survives_its_file(line):
    assert RecordLine.from_dict(json.loads(json.dumps(line.to_dict()))) == line
    assert not any(value is None for value in line.to_dict().values())


def test_an_evaluation_comes_after_the_record_of_its_step():
    record, evaluation = LINE, RecordLine(1, 2, {"val/AP": 0.5})
    assert record.place < evaluation.place < RecordLine(1, 3, LINE.metrics).place


FAULTS = {
    "object": ([], "must hold an object"),
    "missing": ({"time": 1.0, "step": 1}, "it lacks 'metrics'"),
    "unknown": ({"colour": 1}, "'colour' is no key of a record"),
    "step": ({"step": -1}, "'step' is no step"),
    "bool": ({"step": True}, "'step' is no step"),
    "time": ({"time": float("nan")}, "'time' is no time"),
    "metrics": ({"metrics": [1]}, "'metrics' must be names with numbers"),
    "text": ({"metrics": {"val/AP": "1"}}, "'val/AP' is no number"),
    "huge": ({"metrics": {"val/AP": 10**400}}, "'val/AP' is no number"),
    "length": ({"seconds": None}, "'seconds' is no number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_fault_is_named(fault):
    change, said = FAULTS[fault]
    content = change if fault in ("object", "missing") else LINE.to_dict() | change
    with pytest.raises(ValueError, match=said):
        RecordLine.from_dict(content)


def test_training_has_its_lengths():
    with pytest.raises(ValueError, match="must have num_steps, epoch, samples, seconds"):
        RecordLine.from_dict({"time": 1.0, "step": 1, "metrics": {"train/loss": 1.0}, "epoch": 1.0})
