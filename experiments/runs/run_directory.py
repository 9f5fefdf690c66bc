"""Run directories: the run's own truth, from which MLflow gets the same.

run.json            name, arm, levels of the factors, data fingerprint, folder of the ablation
config.json         the resolved configuration
records.jsonl       one line per record of training
system.jsonl        use of CPU, memory, disk, network and GPU
lease.json          who trains it at present
checkpoints/  best.safetensors  predictions.json  attention.safetensors  samples.png  worker.log  error.txt
and what `experiments.folders.files` lists.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from detr.checkpoint import discard_after
from detr.config import RunConfig
from detr.config_io import flatten, from_dict, to_dict
from detr.errors import InputError
from detr.train import Record, train
from experiments.definition.arms import Run
from experiments.folders.files import Folder, Journal, read_json, write_json
from experiments.schema import names
from experiments.schema.record import RecordLine
from experiments.tracking import client

ABOUT = "run.json"


class RunDirectory(Folder):
    """One run's files below `path`."""

    @classmethod
    def create(cls, run: Run, parent: Path) -> "RunDirectory":
        """Make the folder and store what the run is; records and checkpoints that are there stay.

        parent:  folder of the ablation or sweep, which holds this one
        """
        run.directory.mkdir(parents=True, exist_ok=True)
        write_json(run.directory / names.CONFIG, to_dict(run.config))
        about = {"name": run.name, "arm": run.arm, "levels": run.levels, "fingerprint": run.fingerprint}
        above = str(Path(*[".."] * len(run.directory.relative_to(parent).parts)))
        write_json(run.directory / ABOUT, about | {"parent": above})
        return cls(run.directory)

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return from_dict(RunConfig, read_json(self.path / names.CONFIG))

    @property
    def about(self) -> dict[str, Any]:
        """Content of run.json."""
        about = read_json(self.path / ABOUT)
        texts = [about.get(key) for key in ("name", "arm", "fingerprint", "parent")]
        if not all(isinstance(text, str) for text in texts) or not isinstance(about.get("levels"), dict):
            raise InputError(f"{self.path / ABOUT}: must hold name, arm, fingerprint, parent and levels")
        return about

    @property
    def records(self) -> Journal:
        """The journal of training."""
        return Journal(self.path / names.RECORDS)

    def begin(self) -> None:
        """Mark the run as running, and say what MLflow is to know of it."""
        about, config = self.about, self.config
        levels = {f"factor.{name}": level for name, level in about["levels"].items()}
        tags = {
            **names.RunTags(about["arm"], config.seed, about["fingerprint"]).to_dict(),
            names.RUN_DIRECTORY: str(self.path),
        }
        params = flatten(to_dict(config)) | levels
        self.track(about["name"], tags | client.environment_tags(), parent=about["parent"], params=params)
        self.update(state="running", error="", warnings=[])

    def train(self) -> Iterator[Record]:
        """The records of training from the latest checkpoint on, each in the journal before it is passed on.

        After a kill the steps since that checkpoint come again. They are in the journal already, and stay as they are:
        its lines are never taken back, since MLflow may have them.
        """
        journal = self.records
        last = journal.repair()
        reached = last.place if last else (0, False)
        # A checkpoint is of records that were there. A power failure may take the last of them, if flushed later.
        discard_after(self.path / "checkpoints", reached[0])
        with closing(train(self.config, self.path)) as records:
            for record in records:
                line = RecordLine.stamped(**vars(record))
                if line.place > reached:
                    journal.append(line, flush=line.is_evaluation)
                yield record
