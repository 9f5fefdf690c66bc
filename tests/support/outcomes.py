"""What two runs must have in common to count as the same."""

import json

from detr.checkpoint import checkpoints
from experiments.runs.run_directory import RunDirectory

CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")


def untimed(directory: RunDirectory) -> list[str]:
    """The lines of the records without wall-clock values, as texts, in which NaN equals NaN."""
    return [
        json.dumps(
            {"step": line.step, "epoch": line.epoch, "samples": line.samples}
            | {key: value for key, value in line.metrics.items() if key not in CLOCKS}
        )
        for line in directory.records.read()
    ]


def outcome(directory: RunDirectory) -> dict[str, bytes]:
    """What a run ends with: weights, which rest on optimiser and schedule, the best weights, and predictions."""
    last = checkpoints(directory.path / "checkpoints")[-1]
    paths = [last / "model.safetensors", directory.path / "best.safetensors", directory.path / "predictions.json"]
    return {path.name + path.parent.name[-4:]: path.read_bytes() for path in paths}
