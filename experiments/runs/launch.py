"""Launch an ablation: from the command line's overrides to finished runs, their table and their report."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from detr.data import split_paths
from detr.errors import ExitCode
from experiments.definition.arms import Ablation, expand, plan
from experiments.definition.planning import show_plan
from experiments.folders.files import Folder, write_json
from experiments.folders.lease import held
from experiments.launchers.choice import build_launcher
from experiments.results.evidence import gather
from experiments.results.report.ablation_report import spoken, write
from experiments.results.report.sections import title
from experiments.results.report.tables import REFERENCE_NOTE, arm_table, reference_table, terminal_table
from experiments.runs.display import print_table
from experiments.runs.pool import run_workers
from experiments.runs.preflight import preflight
from experiments.runs.run_directory import RunDirectory
from experiments.runs.stop import Stop
from experiments.schema import names
from experiments.schema.store import Store, load_store
from experiments.tracking import client
from experiments.tracking.mirror import Uploader
from experiments.tracking.sync import reconcile
from experiments.tracking.upload import left, noted


def launch(overrides: list[str], console: Console) -> int:
    """Plan, check, run what is missing and report; returns the exit code."""
    store, ablation = load_store(), plan(overrides)
    launcher = build_launcher(ablation.launcher, ablation.workers, ablation.num_processes, store.run_root)
    folder = ablation_folder(ablation, store)
    runs = expand(ablation, folder)
    todo = [run for run in runs if RunDirectory(run.directory).status["state"] != "finished"]
    design = ablation.design
    console.print(f"[bold]{design.name}[/bold]: {design.question}")
    console.print(
        f"{len(design.arms)} arms x {len(design.seeds)} seeds, horizon {design.horizon}; "
        f"{len(runs) - len(todo)} runs are done, {len(todo)} to do"
    )
    if ablation.plan_only:
        show_plan(ablation, todo, launcher.width, store, console)
        return ExitCode.DONE
    if todo:
        preflight([arm.config for arm in ablation.arms], store, launcher, console)
    dead = reconcile(store.run_root)
    with Stop().listen() as stop, opened(ablation, folder, store), Uploader(store, [folder, *dead]) as uploader:
        run_workers(todo, folder, launcher, console, stop, uploader)
        states = [RunDirectory(run.directory).status["state"] for run in runs]
        ended = "failed" if "failed" in states else "finished"
        state = "stopped" if stop.requested or set(states) - {"finished", "failed"} else ended
        Folder(folder).update(state=state)
        uploader.folders = [*uploader.folders, *(run.directory for run in runs)]
        uploader.finish()
        if is_uploaded(uploader, f"detr-report {design.name}", console):
            report(store, folder, console)
            uploader.finish()  # the report as well
    console.print(f"run directories  {folder}")
    if state == "stopped":
        console.print(launcher.farewell)
        return ExitCode.STOPPED
    return ExitCode.FAILED if state == "failed" else ExitCode.DONE


def ablation_folder(ablation: Ablation, store: Store) -> Path:
    """Newest folder of this ablation, or a new one if there is none or with fresh=true."""
    stem = f"{ablation.design.name}-{ablation.identity}"
    newest = max((int(path.suffix[1:]) for path in store.run_root.glob(f"{stem}.*")), default=0)
    return store.run_root / f"{stem}.{newest + 1 if ablation.fresh or not newest else newest}"


@contextmanager
def opened(ablation: Ablation, folder: Path, store: Store) -> Iterator[None]:
    """Make the ablation's folder with its design and validation annotations, and hold it while the block runs."""
    with held(folder) as directory:
        design = ablation.design
        seeds = sorted({*design.seeds, *directory.status.get("seeds", [])})
        write_json(folder / names.DESIGN, ablation.stored(seeds).to_dict())
        shutil.copy2(split_paths(ablation.arms[0].config.data, "val")[0], folder / names.ANNOTATIONS)
        tags = {names.ABLATION: design.name, client.NOTE: design.question} | client.environment_tags()
        directory.track(f"{design.name} ({design.horizon})", tags, experiment=store.ablations)
        directory.update(state="running", seeds=seeds)
        yield


def is_uploaded(uploader: Uploader, report_command: str, console: Console) -> bool:
    """Whether MLflow has everything; if not, print what it lacks and what to do."""
    lacking = {path: missing for path in dict.fromkeys(uploader.folders) if (missing := left(path))}
    for path, missing in lacking.items():
        console.print(f"MLflow lacks {missing} of {path}", markup=False)
    if lacking or uploader.fault:
        console.print(
            f"MLflow could not be given everything ({uploader.fault}). Nothing is lost. When that is mended:",
            markup=False,
        )
        console.print(f"  detr-sync && {report_command}", markup=False)
    return not (lacking or uploader.fault)


def report(store: Store, folder: Path, console: Console) -> None:
    """Print the table and the verdicts, write the report, and print the places of all results."""
    evidence = gather(store, noted(folder)["run_id"])
    table = arm_table(evidence.results)
    print_table(console, terminal_table(table, evidence.results.design), title(evidence))
    print_table(console, reference_table().drop(columns=["source", "note"]), f"published, {REFERENCE_NOTE}")
    for line in spoken(evidence.verdicts):
        console.print(line, markup=False)
    output = folder / names.REPORT
    write(evidence, output)
    console.print(f"report           {output / 'report.html'}, report.md, report.tex, *.csv")
    console.print(f"MLflow           {store.address}\nnext             make ui")
