"""The store -> frames: what the other modules of the read side start from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.results.reading.reader import StoredRun, open_reader, require_reader
from experiments.schema import names
from experiments.schema.design import Design
from experiments.schema.metrics import Metric, in_points
from experiments.schema.record import RecordLine
from experiments.schema.store import Store, StoreError


@dataclass(frozen=True)
class AblationResults:
    """What the store holds of one ablation."""

    run_id: str  # of the parent
    design: Design
    runs: pd.DataFrame  # one row a run: run_id, arm, seed, state, error, a column a factor, latest value of each metric
    params: dict[str, dict[str, str]] = field(default_factory=dict)  # run_id -> its flattened settings as texts
    state: str = "finished"  # of the whole: running, finished, failed or stopped
    note: str = ""  # of the store's reader

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of the runs that came to their end."""
        return self.runs[self.runs["state"] == "finished"]

    @property
    def completeness(self) -> str:
        """How many of the planned runs a figure rests on."""
        done, planned = len(self.finished), self.design.num_runs
        return f"All {done} planned runs." if done == planned else f"INCOMPLETE: {done} of {planned} planned runs."


def newest_ablation(store: Store, name: str | None = None) -> str | None:
    """Run id of the ablation that was started last, of any name or of this one; None where there is none."""
    reader = open_reader(store)
    found = reader.runs(store.ablations, {names.ABLATION: name}) if reader else []
    return found[0].run_id if found else None


def report_folder(store: Store, run_id: str) -> Path:
    """Where the report of the ablation or sweep with this parent run belongs: in the folder of its runs. StoreError
    where that lies outside the run root, as that of another machine does, or of a store that somebody made up.
    """
    reader = open_reader(store)
    tags = reader.run(run_id).tags if reader else {}
    folder = Path(tags.get(names.RUN_DIRECTORY, store.run_root / run_id)) / names.REPORT
    if not folder.resolve().is_relative_to(store.run_root.resolve()):
        raise StoreError(f"{folder} is not below the run root {store.run_root}: give another folder with --output")
    return folder


def load_ablation(store: Store, run_id: str) -> AblationResults:
    """The design and all runs of the ablation with this parent run; StoreError where its design cannot be read."""
    design, reader = _design(store, run_id), require_reader(store)
    children = reader.runs(tags={names.PARENT: run_id})
    order = {arm: i for i, arm in enumerate(design.arms)}
    rows = [_row(child, design) for child in children if child.tags.get(names.ARM) in order]
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id", "arm", "seed", "state", "error"])
    if rows:
        frame = frame.drop_duplicates(["arm", "seed"])  # newest first: a run whose folder was lost was made anew
        frame = frame.sort_values(["arm", "seed"], key=lambda c: c.map(order) if c.name == "arm" else c)
    params = {child.run_id: child.params for child in children}
    state = reader.run(run_id).tags.get(names.STATE, "running")
    return AblationResults(run_id, design, something_to_find(frame.reset_index(drop=True)), params, state, reader.note)


def load_annotations(store: Store, results: AblationResults) -> Path | None:
    """The validation annotations of the ablation, a COCO file; None where they were not stored."""
    return load_file(store, results.run_id, names.ANNOTATIONS)


def load_predictions(store: Store, run_id: str) -> Path | None:
    """The detections of a run's last evaluation, a COCO results file; None where there are none."""
    return load_file(store, run_id, names.PREDICTIONS)


def load_file(store: Store, run_id: str, name: str) -> Path | None:
    """Local path of any artifact of a run; None where it has none of this name."""
    reader = open_reader(store)
    return reader.file(run_id, name) if reader else None


def load_attention(store: Store, run_id: str) -> Path | None:
    """The attention maps of a run's last evaluation (`attention.read_attention`); None where there are none."""
    return load_file(store, run_id, names.ATTENTION)


def earlier_runs(store: Store, metrics: Sequence[Metric]) -> pd.DataFrame:
    """All finished runs of all ablations, oldest first: run_id, arm, seed, fingerprint (of the data), a column a metric
    (NaN if the run has none, or had nothing to find), and a column a setting, as texts.
    """
    reader = open_reader(store)
    found = reader.runs(store.ablations, {names.STATE: "finished"}) if reader else []
    rows = [
        {
            "run_id": run.run_id,
            "arm": run.tags.get(names.ARM),
            "seed": int(run.tags.get(names.SEED, 0)),
            "fingerprint": run.tags.get(names.FINGERPRINT),
            **{metric.column: run.metrics.get(metric.column, np.nan) for metric in metrics},
            **{key: value for key, value in run.params.items() if key != "seed"},
        }
        for run in reversed(found)
    ]
    columns = ["run_id", "arm", "seed", "fingerprint", *(metric.column for metric in metrics)]
    return something_to_find(pd.DataFrame(rows, columns=None if rows else columns))


def load_records(store: Store, run_id: str) -> pd.DataFrame:
    """One row a step: step, epoch, samples, seconds and a column a metric. From the run's own record file once it has
    ended, else from the store's histories.
    """
    reader = require_reader(store)
    run = reader.run(run_id)
    path = None if run.tags.get(names.STATE) == "running" else reader.file(run_id, names.RECORDS)
    if path is None:
        keys = [key for key in run.metrics if not key.startswith("system/")]
        histories = {key: reader.history([run_id], key).set_index("step")["value"] for key in keys}
        frame = pd.DataFrame(histories).rename(columns=lambda key: key.removeprefix("progress/"))
        return something_to_find(frame.drop(columns="step", errors="ignore").rename_axis("step").reset_index())
    steps: dict[int, dict[str, float]] = {}  # a step's evaluation joins its training record
    for record in _lines(path):
        lengths = {key: getattr(record, key) for key in ("step", "epoch", "samples", "seconds")}
        steps.setdefault(record.step, {}).update({**lengths, **record.metrics})
    return something_to_find(pd.DataFrame(list(steps.values())))


def something_to_find(metrics: pd.DataFrame) -> pd.DataFrame:
    """AP and AR without pycocotools' -1, which says that there was nothing to find: NaN in its place."""
    scores = [key for key in map(str, metrics) if in_points(key)]
    return metrics.assign(**{key: metrics[key].replace(-1, np.nan) for key in scores})


def _design(store: Store, run_id: str) -> Design:
    path = load_file(store, run_id, names.DESIGN)
    try:
        content = json.loads(path.read_text(encoding="utf-8") if path else "")
    except (ValueError, OSError, RecursionError):
        state = "is not complete" if path else "is missing"
        raise StoreError(
            f"{names.DESIGN} of the ablation {run_id} {state}: it is just being started, or the file was lost. The "
            "command that started it writes it again"
        ) from None
    try:
        return Design.from_dict(content)
    except ValueError as error:
        raise StoreError(f"{path} of the ablation {run_id} is damaged: {error}") from None


def _lines(path: Path) -> list[RecordLine]:
    """The records of a file; a last line that was cut off is left out."""
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(RecordLine.from_dict(json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise StoreError(f"{path}, line {number}: no record ({error}); the file is damaged") from None
    return records


def _row(run: StoredRun, design: Design) -> dict[str, Any]:
    try:
        tags = names.RunTags.from_dict(run.tags)
    except ValueError as error:
        raise StoreError(f"the run {run.run_id} is damaged: {error}") from None
    return {
        "run_id": run.run_id,
        "arm": tags.arm,
        "seed": tags.seed,
        "state": run.tags.get(names.STATE, "running"),
        "error": run.tags.get(names.ERROR, ""),
        **design.arms[tags.arm],
        **run.metrics,
    }
