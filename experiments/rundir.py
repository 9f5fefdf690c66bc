"""Run directories: the run's own truth, from which MLflow gets the same.

run.json            name, arm, levels of the factors, data fingerprint, MLflow parent
config.json         the resolved configuration
status.json         state (planned, running, finished, failed, stopped), error, MLflow run id
records.jsonl       one line per record of training
checkpoints/  best.safetensors  predictions.json  attention.safetensors  samples.png  worker.log  error.txt
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detr.config import RunConfig
from detr.config_io import from_dict, to_dict
from detr.train import Record
from experiments.design import Run
from experiments.tracking import CONFIG, RECORDS

STATUS, ABOUT = "status.json", "run.json"


class RunDirectory:
    """One run's files below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, run: Run, parent: str) -> "RunDirectory":
        """Make the folder and store what the run is; records and checkpoints that are there stay."""
        run.directory.mkdir(parents=True, exist_ok=True)
        write_json(run.directory / CONFIG, to_dict(run.config))
        about = {"name": run.name, "arm": run.arm, "levels": run.levels, "fingerprint": run.fingerprint}
        write_json(run.directory / ABOUT, about | {"parent": parent})
        return cls(run.directory)

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return from_dict(RunConfig, json.loads((self.path / CONFIG).read_text()))

    @property
    def about(self) -> dict[str, Any]:
        """Content of run.json."""
        return json.loads((self.path / ABOUT).read_text())

    @property
    def status(self) -> dict[str, Any]:
        """Content of status.json; "planned" where nothing has run."""
        try:
            return json.loads((self.path / STATUS).read_text())
        except FileNotFoundError:
            return {"state": "planned"}

    def update(self, **values: Any) -> None:
        """Change entries of status.json."""
        write_json(self.path / STATUS, self.status | values)

    def rewind(self, step: int) -> None:
        """Drop records after `step`, the step of the checkpoint that training resumes from: they will come again."""
        kept = [json.dumps(record) + "\n" for record in self.tail()[0] if record["step"] <= step]
        beside = self.path / f"{RECORDS}.unfinished"
        beside.write_text("".join(kept))
        beside.replace(self.path / RECORDS)

    def append(self, record: Record) -> None:
        """Add a record as one line."""
        with (self.path / RECORDS).open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def tail(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Records from the byte `offset` on, and the offset behind them; half a line that a kill left is not read."""
        try:
            with (self.path / RECORDS).open("rb") as file:
                file.seek(offset)
                complete = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return [], offset
        lines = complete.splitlines()
        return [json.loads(line) for line in lines], offset + len(complete) + bool(lines)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_text(json.dumps(content, indent=1))
    beside.replace(path)
