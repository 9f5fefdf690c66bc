"""Names of tags, metrics and files in MLflow: `tracking` writes them, `results` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass

# tags
ABLATION, ARM, SEED, STATE, ERROR = "detr.ablation", "detr.arm", "detr.seed", "detr.state", "detr.error"
SEEDS, FINGERPRINT, RUN_DIRECTORY = "detr.seeds", "detr.data_fingerprint", "detr.run_directory"
SWEEP, STUDY, STORAGE = "detr.sweep", "detr.study", "detr.storage"  # of a sweep's parent run
PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"  # MLflow's own
# metrics beside those that detr.train names
STEP, EPOCH, SAMPLES, SECONDS = "progress/step", "progress/epoch", "progress/samples", "progress/seconds"
NUM_STEPS = "progress/num_steps"  # of the whole run, logged once
# artifacts
RECORDS, PREDICTIONS, SAMPLES_PICTURE, CONFIG = "records.jsonl", "predictions.json", "samples.png", "config.json"
PREDICTIONS_EMA = "predictions_ema.json"  # of the moving average of the weights
SYSTEM = "system.jsonl"
ATTENTION = "attention.safetensors"
DESIGN, ANNOTATIONS, FAILURE = "ablation.json", "annotations_val.json", "error.txt"  # the first two at the parent
FILES = (CONFIG, RECORDS, PREDICTIONS, PREDICTIONS_EMA, ATTENTION, SAMPLES_PICTURE, FAILURE)  # of a run
SPEC = "sweep.json"  # at a sweep's parent
REPORT, CHECKPOINTS = "report", "checkpoints"  # folders
TRACKED = "tracked.json"  # in the folders of runs, ablations and sweeps; no artifact


def stored_metric(key: str) -> str:
    """Name of a metric in MLflow, which allows letters, digits and _ - . / : and space; a class may have any name."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "_-./: " else "_" for c in key)


@dataclass(frozen=True)
class RunTags:
    """Tags that say which run of an ablation or sweep it is."""

    arm: str
    seed: int
    fingerprint: str  # of the data

    def to_dict(self) -> dict[str, str]:
        """Tags of MLflow."""
        return {ARM: self.arm, SEED: str(self.seed), FINGERPRINT: self.fingerprint}

    @classmethod
    def from_dict(cls, tags: Mapping[str, str]) -> "RunTags":
        """The tags among those of a run; ValueError names the first that is missing or wrong."""
        for key in (ARM, SEED):
            if key not in tags:
                raise ValueError(f"it lacks the tag {key}")
        if not (tags[SEED].isascii() and tags[SEED].isdigit() and len(tags[SEED]) < 19):
            raise ValueError(f"the tag {SEED} must be a whole number, not {tags[SEED][:50]!r}")
        return cls(tags[ARM], int(tags[SEED]), tags.get(FINGERPRINT, ""))


@dataclass(frozen=True)
class SweepTags:
    """Tags of a sweep's parent run: its name, and where its Optuna study is."""

    sweep: str
    study: str
    storage: str  # path of a journal or SQLite file, or the URL of a database without its password

    def to_dict(self) -> dict[str, str]:
        """Tags of MLflow."""
        return {SWEEP: self.sweep, STUDY: self.study, STORAGE: self.storage}

    @classmethod
    def from_dict(cls, tags: Mapping[str, str]) -> "SweepTags":
        """The tags among those of a run; ValueError names the first that is missing."""
        for key in (SWEEP, STUDY, STORAGE):
            if key not in tags:
                raise ValueError(f"it lacks the tag {key}")
        return cls(tags[SWEEP], tags[STUDY], tags[STORAGE])
