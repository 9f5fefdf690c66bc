"""From the command line's overrides to a searched space, its re-runs at longer rungs, and its report."""

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from optuna import Study
from optuna.trial import TrialState
from rich.console import Console

from detr.errors import InputError
from experiments.folders.files import UPLOADED, Folder, not_a_link, write_json
from experiments.folders.lease import held
from experiments.launchers.base import Launcher, Process
from experiments.launchers.choice import build_launcher
from experiments.results.reading.sweep_trials import SweepResults
from experiments.results.report.sweep_report import best_table, spoken, title, write
from experiments.runs.display import print_table
from experiments.runs.launch import is_uploaded
from experiments.runs.preflight import preflight
from experiments.runs.stop import Stop
from experiments.schema import names
from experiments.schema.store import Store, load_store, without_password
from experiments.schema.trial_attributes import PARENT
from experiments.sweeps.best import write_ablation
from experiments.sweeps.progress import SweepDisplay, show_plan
from experiments.sweeps.sampling import build_pruner, build_sampler
from experiments.sweeps.slots import MAX_DEATHS, bury, fill, search_places, states
from experiments.sweeps.space import check_space, config_of
from experiments.sweeps.study import open_storage, quieten_optuna, storage_address, study_name
from experiments.sweeps.sweep_file import Sweep, read_sweep
from experiments.sweeps.trial import SEARCH, TRUST, Phase, open_phase
from experiments.tracking import client
from experiments.tracking.client import Tracker
from experiments.tracking.mirror import Uploader
from experiments.tracking.sync import folders, reconcile
from experiments.tracking.upload import Upload, noted

POLL_SECONDS = 1.0


def search(overrides: list[str], console: Console) -> int:
    """Check, search, run some configurations again for longer, and report; returns the exit code."""
    quieten_optuna()
    store, sweep = load_store(), read_sweep(overrides)
    base = config_of(sweep.overrides, [], {}, sweep.rungs[0], seed=0)
    build_sampler(sweep.sampler, 0), build_pruner(sweep, base.train.evaluations)
    launcher = build_launcher(sweep.launcher, sweep.workers, base.train.num_processes, store.run_root)
    places = search_places(sweep)
    check_space(sweep.overrides, sweep.settings, sweep.known, sweep.rungs[0])
    console.print(f"[bold]{sweep.name}[/bold]: {sweep.question}")
    if sweep.plan_only:
        show_plan(sweep, len(places), base, console)
        return 0
    known = [config_of(sweep.overrides, sweep.settings, values, sweep.rungs[0], 0) for values in sweep.known.values()]
    preflight(known or [base], store, launcher, console)
    address = storage_address(sweep, store)
    store.run_root.mkdir(parents=True, exist_ok=True)
    with FileLock(store.run_root / "sweeps.lock"):  # one study, whoever comes first
        name = study_name(sweep, open_storage(address, sweep, store))
        study = open_phase(SEARCH, name, sweep).study
    limit, folder = 60 * sweep.time_limit_minutes if sweep.time_limit_minutes else math.inf, store.run_root / name
    dead = reconcile(store.run_root)
    with Stop().listen() as stop, opened(sweep, folder, address, store), Uploader(store, [folder, *dead]) as uploader:
        share_parent(study, folder, store)
        phase = open_phase(SEARCH, name, sweep)
        run_phase(phase, launcher, time.time() + limit, console, stop)
        if len(sweep.rungs) > 1 and not stop.requested:
            run_phase(open_phase(TRUST, name, sweep), launcher, math.inf, console, stop)
        failed = states(phase.study)[TrialState.FAIL] > 0
        Folder(folder).update(state="stopped" if stop.requested else "failed" if failed else "finished")
        uploader.folders = [folder, *dead, *(path for path in folders(folder) if path != folder)]
        uploader.finish()
        if is_uploaded(uploader, f"detr-report --sweep {sweep.name}", console):
            report(sweep, store, phase, console)
            uploader.finish()  # the report as well
    console.print(f"run directories  {folder}")
    if stop.requested:
        console.print(launcher.farewell)
        return 3
    return 1 if failed else 0


@contextmanager
def opened(sweep: Sweep, folder: Path, address: str, store: Store) -> Iterator[None]:
    """Make the sweep's folder with what is searched and how, and hold it while the block runs."""
    with held(folder) as directory:
        write_json(folder / names.SPEC, sweep.describe())
        tags = names.SweepTags(sweep.name, folder.name, without_password(address)).to_dict()
        tags |= {client.NOTE: sweep.question} | client.environment_tags()
        directory.track(f"{sweep.name} ({sweep.rungs[0]})", tags, experiment=store.sweeps)
        directory.update(state="running")
        yield


def share_parent(study: Study, folder: Path, store: Store) -> None:
    """Machines that work at one study log below one MLflow run: the first that reaches MLflow notes it in the study.

    Those that share the study's database but no tracking server have a run of their own each.
    """
    key = f"{PARENT} {f'{platform.node()} {store.address}' if store.database else store.address}"
    if run_id := study.user_attrs.get(key):
        if not noted(folder)["run_id"]:
            write_json(folder / UPLOADED, {"run_id": run_id})
        return
    with suppress(Exception):  # MLflow is away; the uploader tries again, and says so
        study.set_user_attr(key, Upload(folder, Tracker(store)).open())


def run_phase(phase: Phase, launcher: Launcher, until: float, console: Console, stop: Stop) -> None:
    """Keep worker processes at the study until no place is left, or none may be begun any more.

    They take from the study what they do, as do those that other commands have started; this one waits for those, too,
    and takes over what they leave when they die. A worker that dies is replaced.
    """
    for slot in range(launcher.width):
        worker_log(phase, slot)  # one that is refused is refused before anything starts
    active: dict[int, Process] = {}
    crashes, ended, asked = 0, 0, False
    with phase.claim:
        bury(phase.study, phase.directory, everywhere=phase.shared)
        fill(phase.study, phase.places, failed_too=True)
    with SweepDisplay(console, phase, until) as display:
        while True:
            for slot, process in list(active.items()):
                if process.poll() is not None:
                    crashes += check_worker(process, worker_log(phase, slot), console)
                    del active[slot]
            with phase.claim:
                bury(phase.study, phase.directory, everywhere=phase.shared)
                fill(phase.study, phase.places)
            counts = states(phase.study)
            display.update()
            if counts[TrialState.COMPLETE] + counts[TrialState.PRUNED] > ended:
                ended, crashes = counts[TrialState.COMPLETE] + counts[TrialState.PRUNED], 0
            if crashes > MAX_DEATHS * launcher.width:
                raise InputError(f"{crashes} workers died one after the other; see {worker_log(phase, 0)}")
            if stop.requested and not asked:
                for process in active.values():
                    process.terminate()
                asked = True
            begin = counts[TrialState.WAITING] > 0 and time.time() < until and not stop.requested
            for slot in range(launcher.width):
                if (
                    begin
                    and slot not in active
                    and len(active) < counts[TrialState.WAITING] + counts[TrialState.RUNNING]
                ):
                    active[slot] = start_worker(phase, launcher, slot, until, display.update)
            if not active and not begin and (stop.requested or not counts[TrialState.RUNNING]):
                return
            time.sleep(POLL_SECONDS)


def start_worker(phase: Phase, launcher: Launcher, slot: int, until: float, watch: Callable[[], None]) -> Process:
    """A process that takes trial after trial."""
    name = phase.folder.name
    module = ["experiments.sweeps.trial", name, phase.name, str(until), *phase.sweep.overrides]
    return launcher.start(module, worker_log(phase, slot), watch)


def worker_log(phase: Phase, slot: int) -> Path:
    """What a worker has to say; several commands append to it. InputError where it is a link."""
    return not_a_link(phase.folder / f"worker-{slot}.log")


def check_worker(process: Process, log: Path, console: Console) -> bool:
    """Whether the process died; says so. InputError when it refused its input."""
    if process.returncode in (0, 3):
        return False
    said = log.read_text(errors="replace").strip().splitlines()
    last = said[-1] if said else "no message"
    if process.returncode == 2:
        raise InputError(last.removeprefix("error: "))
    console.print(f"[yellow]a worker died with code {process.returncode}[/]; its trial goes on ({last[:200]})")
    return True


def report(sweep: Sweep, store: Store, phase: Phase, console: Console) -> None:
    """Write the report and the best configuration's ablation, and say where all is."""
    trust = open_phase(TRUST, phase.folder.name, sweep).study if len(sweep.rungs) > 1 else None
    results = SweepResults(noted(phase.folder)["run_id"], sweep.describe(), phase.study, trust)
    print_table(console, best_table(results), title(results))
    for line in spoken(results):
        console.print(line, markup=False)
    output = phase.folder / names.REPORT
    best = output / "best.yaml"
    with FileLock(phase.folder / "report.lock"):  # commands that joined end together
        write(results, output)
        found = write_ablation(sweep, phase.study, best)
    if found:
        console.print(f"ablation         python experiments/run.py ablation={best} seeds=[0,1,2]")
    else:
        console.print("ablation         none: no finished trial is better than what was known")
    address = without_password(storage_address(sweep, store))
    console.print(f"report           {output / 'report.html'}, report.md, *.csv")
    console.print(f"Optuna           optuna-dashboard {address}")
    console.print(f"MLflow           {store.address}\nnext             make ui")
