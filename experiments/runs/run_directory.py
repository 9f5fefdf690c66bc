"""Run directory: everything a run is and has produced, of which MLflow gets a copy.

run.json            name, arm, levels of the factors, data fingerprint, folder of the ablation
config.json         the resolved configuration
records.jsonl       one line a record of training
system.jsonl        use of CPU, memory, disk, network and GPU
lease.json          process that trains it at present
checkpoints/  best.safetensors  predictions.json  attention.safetensors  samples.png  worker.log  error.txt
best_ema.safetensors  predictions_ema.json      of the moving average of the weights
and the files that `experiments.folders.files` lists.
"""

from collections.abc import Generator
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
    """Files of one run below `path`."""

    @classmethod
    def create(cls, run: Run, parent: Path) -> "RunDirectory":
        """Create the folder and write config.json and run.json; records and checkpoints in it stay.

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
        """Settings of the run."""
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
        """Journal of training."""
        return Journal(self.path / names.RECORDS)

    def begin(self) -> None:
        """Mark the run as running, and write its name, tags and parameters for MLflow."""
        about, config = self.about, self.config
        levels = {f"factor.{name}": level for name, level in about["levels"].items()}
        tags = {
            **names.RunTags(about["arm"], config.seed, about["fingerprint"]).to_dict(),
            names.RUN_DIRECTORY: str(self.path),
        }
        params = flatten(to_dict(config)) | levels
        self.track(about["name"], tags | client.environment_tags(), parent=about["parent"], params=params)
        self.update(state="running", error="", warnings=[])

    def train(self) -> Generator[Record]:
        """Train from the latest checkpoint on; yields each record once it is in the journal.

        After a kill the steps since that checkpoint are repeated. Their records stay in the journal as they are: a line
        is never taken back, since MLflow may have it.
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
