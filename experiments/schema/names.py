"""What runs call their tags, metrics and files: `tracking` writes them, `results` reads them."""

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
SYSTEM = "system.jsonl"
ATTENTION = "attention.safetensors"
DESIGN, ANNOTATIONS, FAILURE = "ablation.json", "annotations_val.json", "error.txt"  # the first two at the parent
FILES = (CONFIG, RECORDS, PREDICTIONS, ATTENTION, SAMPLES_PICTURE, FAILURE)  # of a run
SPEC = "sweep.json"  # at a sweep's parent
REPORT, CHECKPOINTS = "report", "checkpoints"  # folders
TRACKED = "tracked.json"  # in the folders of runs, ablations and sweeps; no artifact


def stored_metric(key: str) -> str:
    """Name of a metric in MLflow, which allows letters, digits and _ - . / : and space; a class may have any name."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "_-./: " else "_" for c in key)
