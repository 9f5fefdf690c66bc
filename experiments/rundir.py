"""Run directories: the run's own truth, from which MLflow gets the same.

    config.json         the resolved configuration
    status.json         state (planned, running, finished, failed, stopped), error, MLflow run id
    records.jsonl       one line per record of training
    checkpoints/  best.safetensors  predictions.json  samples.png
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detr.config import RunConfig
from detr.config_io import to_dict
from detr.train import Record

RECORDS, STATUS, CONFIG = "records.jsonl", "status.json", "config.json"


class RunDirectory:
    """One run's files below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """Make the folder and store the configuration; what is there already stays."""
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / CONFIG, to_dict(config))
        return cls(path)

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
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        beside = self.path / f"{RECORDS}.unfinished"
        beside.write_text("".join(kept))
        beside.replace(self.path / RECORDS)

    def append(self, record: Record) -> None:
        """Add a record as one line."""
        with (self.path / RECORDS).open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def records(self, first: int = 0) -> list[dict[str, Any]]:
        """Records from the `first` line on."""
        return [json.loads(line) for i, line in enumerate(self._lines()) if i >= first]

    def _lines(self) -> Iterator[str]:
        """Complete lines; a kill may have left half of the last one."""
        if (self.path / RECORDS).exists():
            with (self.path / RECORDS).open() as file:
                yield from (line for line in file if line.endswith("\n"))


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_text(json.dumps(content, indent=1))
    os.replace(beside, path)
