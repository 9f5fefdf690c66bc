"""Where runs execute: one after the other in this process, each resuming from its run directory."""

import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from detr.checkpoint import checkpoints, load_official, read_weights
from detr.config import RunConfig
from detr.config_io import flatten, to_dict
from detr.data import CocoDetection, open_split, split_paths
from detr.draw import draw_samples
from detr.errors import InputError
from detr.models import build_model
from detr.train import Record, choose_device, train
from experiments import tracking
from experiments.design import Ablation, plan
from experiments.progress import Display
from experiments.results.figures import curves
from experiments.results.report import arm_table, display_table, markdown, reference_table
from experiments.results.runs import load_ablation, load_records
from experiments.rundir import RunDirectory, write_json
from experiments.store import Store, load_store
from experiments.tracking import MetricStream, Tracker

SEND_SECONDS = 5.0  # between uploads of records


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    name: str
    arm: str
    levels: dict[str, str]
    config: RunConfig
    directory: Path


class Stop:
    """Set by SIGINT or SIGTERM; the run saves and leaves after the current step. A second signal interrupts at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listen(self) -> Iterator["Stop"]:
        """Handle the signals inside the block."""

        def handler(number: int, frame: object) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def launch(overrides: list[str], console: Console) -> int:
    """Plan, check, run what is missing and report; returns the exit code."""
    store = load_store()
    ablation = plan(overrides)
    folder = run_folder(ablation, store)
    runs = expand(ablation, folder)
    todo = [run for run in runs if RunDirectory(run.directory).status["state"] != "finished"]
    console.print(f"[bold]{ablation.name}[/bold]: {ablation.question}", highlight=False)
    console.print(
        f"{len(ablation.arms)} arms x {len(ablation.seeds)} seeds, horizon {ablation.horizon}; "
        f"{len(runs) - len(todo)} runs are done, {len(todo)} to do",
        highlight=False,
    )
    if todo:
        preflight(ablation, store, console)
    tracker = Tracker(store)
    parent = open_parent(ablation, folder, tracker)
    with Stop().listen() as stop, Display(console, len(todo)) as display:
        for run in todo:
            display.start(run.name)
            state = execute(run, parent, tracker, display.update, stop)
            display.finish(state, str(RunDirectory(run.directory).status.get("error", "")))
            if stop.requested:
                break
    states = [RunDirectory(run.directory).status["state"] for run in runs]
    tracker.close(parent, "stopped" if stop.requested else "failed" if "failed" in states else "finished")
    report(store, parent, folder, tracker, console)
    if stop.requested:
        console.print("stopped; the same command goes on", highlight=False)
        return 3
    return 1 if "failed" in states else 0


def preflight(ablation: Ablation, store: Store, console: Console) -> None:
    """Find what would stop a run before any of them spends time: data, images, starting weights."""
    data = ablation.arms[0].config.data
    for split in ("train", "val"):
        dataset = open_split(data, split)
        console.print(dataset.summary(), highlight=False)
        if data.verify_images:
            verify_once(dataset, store.run_root / "verified", console)
    for arm in ablation.arms:
        num_classes = arm.config.model.num_classes or dataset.num_classes
        model = build_model(replace(arm.config.model, num_classes=num_classes))
        if arm.config.model.init_from:
            load_official(model, read_weights(arm.config.model.init_from))
        choose_device(arm.config.train.device)


def verify_once(dataset: CocoDetection, folder: Path, console: Console) -> None:
    """Decode every image of the set, unless that was done and no file has changed since."""
    stamp = folder / dataset.files_fingerprint()
    if stamp.exists():
        return
    steps = track(
        dataset.verify_images(), f"checking images in {dataset.root}", total=len(dataset), console=console, transient=True
    )
    for _ in steps:
        pass
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def run_folder(ablation: Ablation, store: Store) -> Path:
    """The ablation's folder: the newest with its identity, or a new one for fresh=true."""
    stem = f"{ablation.name}-{ablation.identity}"
    generations = [int(path.name.rpartition(".")[2]) for path in store.run_root.glob(f"{stem}.*")]
    newest = max(generations, default=0)
    return store.run_root / f"{stem}.{newest + 1 if ablation.fresh or not newest else newest}"


def expand(ablation: Ablation, folder: Path) -> list[Run]:
    """All runs, every arm with the first seed before any with the second: what is done first can be compared."""
    return [
        Run(f"{arm.name},seed={seed}", arm.name, arm.levels, arm.with_seed(seed), folder / arm.name / f"seed-{seed}")
        for seed in ablation.seeds
        for arm in ablation.arms
    ]


def open_parent(ablation: Ablation, folder: Path, tracker: Tracker) -> str:
    """The ablation's MLflow run, the same again for the same folder."""
    path = folder / tracking.DESIGN
    folder.mkdir(parents=True, exist_ok=True)
    known = RunDirectory(folder).status.get("mlflow_run_id")
    design = {
        "name": ablation.name,
        "question": ablation.question,
        "design": ablation.design,
        "factors": ablation.factors,
        "baseline": ablation.baseline,
        "horizon": ablation.horizon,
        "arms": {arm.name: arm.levels for arm in ablation.arms},
    }
    tags = {tracking.ABLATION: ablation.name, tracking.RUN_DIRECTORY: str(folder)}
    run_id = tracker.open(known, f"{ablation.name} ({ablation.horizon})", tags)
    RunDirectory(folder).update(state="running", mlflow_run_id=run_id)
    earlier = tracker.client.get_run(run_id).data.tags.get(tracking.SEEDS, "")
    seeds = sorted({*ablation.seeds, *(int(s) for s in earlier.split(",") if s)})
    write_json(path, design | {"seeds": seeds})
    tracker.set_tags(run_id, {tracking.SEEDS: ",".join(map(str, seeds))})
    tracker.note(run_id, ablation.question)
    tracker.log_file(run_id, path)
    annotations = folder / tracking.ANNOTATIONS
    if not annotations.exists():
        shutil.copyfile(split_paths(ablation.arms[0].config.data, "val")[0], annotations)
        tracker.log_file(run_id, annotations)
    tracker.close(run_id, "running")
    return run_id


def execute(run: Run, parent: str, tracker: Tracker, on_record: Callable[[Record], None], stop: Stop) -> str:
    """Train one run to its end and mirror it to MLflow; returns its state: finished, failed or stopped."""
    directory = RunDirectory.create(run.directory, run.config)
    run_id = open_child(run, parent, directory, tracker)
    directory.update(state="running", mlflow_run_id=run_id, error="")
    tracker.close(run_id, "running")
    saved = checkpoints(run.directory / "checkpoints")
    directory.rewind(int(saved[-1].name.removeprefix("step-")) if saved else 0)
    state, error = "finished", ""
    stream = MetricStream(tracker, run_id)
    with tracker.system_metrics(run_id):
        try:
            with closing(train(run.config, run.directory)) as records:
                sent = time.monotonic()
                for record in records:
                    directory.append(record)
                    on_record(record)
                    if time.monotonic() - sent > SEND_SECONDS:
                        stream.send(directory.records(stream.sent))
                        sent = time.monotonic()
                    if stop.requested:
                        state = "stopped"
                        break
            if state == "finished":
                dataset = open_split(run.config.data, "val")
                draw_samples(dataset, run.directory / tracking.PREDICTIONS, run.directory / tracking.SAMPLES_PICTURE)
        except KeyboardInterrupt:
            finish(directory, stream, "stopped", "interrupted")
            raise
        except InputError as mistake:  # the data's, since the settings were checked: it holds for every arm
            finish(directory, stream, "failed", str(mistake))
            raise
        except Exception as failure:  # whatever an arm dies of, the others go on
            state, error = "failed", f"{type(failure).__name__}: {failure}"
            (run.directory / tracking.FAILURE).write_text(traceback.format_exc())
    finish(directory, stream, state, error)
    return state


def open_child(run: Run, parent: str, directory: RunDirectory, tracker: Tracker) -> str:
    """The run's MLflow run below the ablation's."""
    tags = {
        tracking.ARM: run.arm,
        tracking.SEED: str(run.config.seed),
        tracking.RUN_DIRECTORY: str(run.directory),
    }
    run_id = tracker.open(directory.status.get("mlflow_run_id"), run.name, tags, parent)
    levels = {f"factor.{name}": level for name, level in run.levels.items()}
    tracker.log_params(run_id, flatten(to_dict(run.config)) | levels)
    return run_id


def finish(directory: RunDirectory, stream: MetricStream, state: str, error: str) -> None:
    """Send what is left, files included, and close the run."""
    directory.update(state=state, error=error)
    tracker, run_id = stream.tracker, stream.run_id
    stream.send(directory.records(stream.sent))
    for name in (tracking.CONFIG, tracking.RECORDS, tracking.PREDICTIONS, tracking.SAMPLES_PICTURE, tracking.FAILURE):
        tracker.log_file(run_id, directory.path / name)
    tracker.log_file(run_id, directory.path / "best.safetensors", "checkpoints")
    for file in checkpoints(directory.path / "checkpoints")[-1:]:
        tracker.log_file(run_id, file / "model.safetensors", "checkpoints/last")
    tracker.close(run_id, state, error)


def report(store: Store, parent: str, folder: Path, tracker: Tracker, console: Console) -> None:
    """Print the table, store it as Markdown and CSV with the curves, and say where everything is."""
    results = load_ablation(store, parent)
    table = arm_table(results)
    print_table(console, display_table(table), f"{results.design['name']}, horizon {results.design['horizon']}")
    print_table(console, reference_table(), "published, another setting")
    output = folder / "report"
    output.mkdir(exist_ok=True)
    (output / "table.md").write_text(markdown(results))
    table.to_csv(output / "table.csv", index=False)
    runs = results.runs[results.runs["state"] == "finished"]
    records = {(run.arm, run.seed): load_records(store, run.run_id) for run in runs.itertuples()}
    if records:
        curves(records).write_html(output / "curves.html", include_plotlyjs=True)
    for path in sorted(output.iterdir()):
        tracker.log_file(parent, path, tracking.REPORT)
    console.print(
        f"run directories  {folder}\nreport           {output}\nMLflow           {store.tracking_uri}\n"
        "next             make ui   (MLflow UI on 127.0.0.1)",
        highlight=False,
        soft_wrap=True,
    )


def print_table(console: Console, frame: pd.DataFrame, title: str) -> None:
    """A frame of texts as a terminal table."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(frame.columns):
        table.add_column(column, justify="left" if i == 0 or column == "note" else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print(table)
