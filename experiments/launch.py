"""From the command line's overrides to finished runs and their table."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from detr.checkpoint import load_official, read_weights
from detr.config import RunConfig
from detr.data import CocoDetection, open_split, split_paths
from detr.models import build_model
from detr.train import choose_device
from experiments import tracking
from experiments.design import Ablation, Run, expand, plan
from experiments.display import Display, print_table
from experiments.planning import show_plan
from experiments.results.evidence import gather
from experiments.results.report import spoken, write
from experiments.results.sections import title
from experiments.results.tables import REFERENCE_NOTE, arm_table, reference_table, terminal_table
from experiments.rundir import RunDirectory, write_json
from experiments.store import ROOT, Store, load_store
from experiments.tracking import Tracker
from experiments.worker import Stop

POLL_SECONDS = 0.3
MAX_CPU_WORKERS = 4


def launch(overrides: list[str], console: Console) -> int:
    """Plan, check, run what is missing and report; returns the exit code."""
    store, ablation = load_store(), plan(overrides)
    folder = ablation_folder(ablation, store)
    runs = expand(ablation, folder)
    todo = [run for run in runs if RunDirectory(run.directory).status["state"] != "finished"]
    console.print(f"[bold]{ablation.name}[/bold]: {ablation.question}")
    console.print(
        f"{len(ablation.arms)} arms x {len(ablation.seeds)} seeds, horizon {ablation.horizon}; "
        f"{len(runs) - len(todo)} runs are done, {len(todo)} to do"
    )
    if ablation.plan_only:
        show_plan(ablation, todo, len(worker_slots(ablation.workers)), store, console)
        return 0
    if todo:
        preflight([arm.config for arm in ablation.arms], store, console)
    tracker = Tracker(store)
    parent = open_parent(ablation, folder, tracker)
    with Stop().listen() as stop:
        run_workers(todo, parent, ablation, console, stop)
    states = [RunDirectory(run.directory).status["state"] for run in runs]
    tracker.close(parent, "stopped" if stop.requested else "failed" if "failed" in states else "finished")
    report(store, parent, folder, tracker, console)
    if stop.requested:
        console.print("stopped; the same command goes on")
        return 3
    return 1 if "failed" in states else 0


def ablation_folder(ablation: Ablation, store: Store) -> Path:
    """The newest folder of this ablation, or a new one where there is none or fresh=true."""
    stem = f"{ablation.name}-{ablation.identity}"
    newest = max((int(path.suffix[1:]) for path in store.run_root.glob(f"{stem}.*")), default=0)
    return store.run_root / f"{stem}.{newest + 1 if ablation.fresh or not newest else newest}"


def preflight(configs: list[RunConfig], store: Store, console: Console) -> None:
    """Find what would stop a run before any of them spends time: data, images, starting weights, device."""
    data = configs[0].data
    for split in ("train", "val"):
        dataset = open_split(data, split)
        console.print(dataset.summary())
        if data.verify_images:
            verify_once(dataset, store.run_root / "verified", console)
    for config in configs:
        choose_device(config.train.device)
        num_classes = config.model.num_classes or dataset.num_classes
        model = build_model(replace(config.model, num_classes=num_classes))
        if config.model.init_from:
            load_official(model, read_weights(config.model.init_from))


def verify_once(dataset: CocoDetection, folder: Path, console: Console) -> None:
    """Decode every image of the set, unless that was done and no file has changed since."""
    stamp = folder / dataset.files_fingerprint()
    if stamp.exists():
        return
    for _ in track(dataset.verify_images(), "checking images", len(dataset), console=console, transient=True):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()


def open_parent(ablation: Ablation, folder: Path, tracker: Tracker) -> str:
    """The ablation's MLflow run, the same again for the same folder, with its design and validation annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(folder)
    tags = {tracking.ABLATION: ablation.name, tracking.RUN_DIRECTORY: str(folder)}
    title = f"{ablation.name} ({ablation.horizon})"
    run_id = tracker.open(directory.status.get("mlflow_run_id"), title, tags)
    seeds = sorted({*ablation.seeds, *directory.status.get("seeds", [])})
    directory.update(state="running", mlflow_run_id=run_id, seeds=seeds)
    write_json(folder / tracking.DESIGN, ablation.describe() | {"seeds": seeds})
    shutil.copyfile(split_paths(ablation.arms[0].config.data, "val")[0], folder / tracking.ANNOTATIONS)
    for name in (tracking.DESIGN, tracking.ANNOTATIONS):
        tracker.log_file(run_id, folder / name)
    tracker.note(run_id, ablation.question)
    tracker.close(run_id, "running")
    return run_id


def run_workers(todo: list[Run], parent: str, ablation: Ablation, console: Console, stop: Stop) -> None:
    """Keep as many worker processes busy as the machine takes, and show their records, until all have ended.

    Everything passes through the run directories: a worker that dies takes none of the others with it.
    """
    slots = worker_slots(ablation.workers)
    waiting, active, asked = list(todo), {}, False
    with Display(console, len(todo)) as display:
        while waiting or active:
            if stop.requested and not asked:
                waiting.clear()
                for _, process in active.values():
                    process.terminate()  # once: it saves and leaves, and a second signal would interrupt that
                asked = True
            while waiting and len(active) < len(slots):
                run = waiting.pop(0)
                slot = next(s for s in slots if s not in [used for used, _ in active.values()])
                active[run] = (slot, start_worker(run, parent, slots[slot]))
                display.start(run.name)
            time.sleep(POLL_SECONDS)
            for run, (_, process) in list(active.items()):
                ended = process.poll() is not None
                directory = RunDirectory(run.directory)
                display.update(run.name, directory)
                if ended:
                    close_worker(run, directory, process.returncode, display)
                    del active[run]


def start_worker(run: Run, parent: str, environment: dict[str, str]) -> subprocess.Popen:
    """Write the run's directory and start its worker."""
    directory = RunDirectory.create(run, parent)
    return spawn(["experiments.worker", str(directory.path)], directory.path / "worker.log", environment)


def spawn(module: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start `python -m module...`, in a session of its own so that Ctrl-C reaches us alone."""
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            env=os.environ | environment | path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def close_worker(run: Run, directory: RunDirectory, code: int, display: Display) -> None:
    """Show how a run ended; one that died without a word, by a kill or for memory, is marked failed."""
    if directory.status["state"] == "running":
        log = (directory.path / "worker.log").read_text(errors="replace").strip().splitlines()
        directory.update(state="failed", error=f"the worker died with code {code}: {log[-1] if log else 'no message'}")
    status = directory.status
    display.finish(run.name, status["state"], status.get("error", ""))


def worker_slots(workers: int | None) -> dict[int, dict[str, str]]:
    """Environment of each worker slot: its GPU and its share of the CPU cores.

    By default one slot a GPU; without GPUs one a core, at most four.
    """
    cores, gpus = torch.get_num_threads(), torch.cuda.device_count()
    count = workers or gpus or min(cores, MAX_CPU_WORKERS)
    slots = {i: {"OMP_NUM_THREADS": str(max(1, cores // count))} for i in range(count)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(gpus)]
    for i, slot in slots.items():
        if devices and gpus:
            slot["CUDA_VISIBLE_DEVICES"] = devices[i % len(devices)]
    return slots


def report(store: Store, parent: str, folder: Path, tracker: Tracker, console: Console) -> None:
    """Print the table and the verdicts, write the report, log it to the parent run, and say where everything is."""
    evidence = gather(store, parent)
    print_table(console, terminal_table(arm_table(evidence.results)), title(evidence))
    print_table(console, reference_table().drop(columns="note"), f"published, {REFERENCE_NOTE}")
    for line in spoken(evidence.verdicts):
        console.print(line, markup=False)
    output = folder / tracking.REPORT
    for path in write(evidence, output):
        tracker.log_file(parent, path, tracking.REPORT)
    console.print(f"run directories  {folder}\nreport           {output / 'report.html'}, report.md, report.tex, *.csv")
    console.print(f"MLflow           {store.tracking_uri}\nnext             make ui")
