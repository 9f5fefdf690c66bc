"""Upload what MLflow lacks of the run directories, and mark the runs that died.

    detr-sync                            all folders below run_root of mlflow.yaml
    detr-sync runs/lr_clip-1a2b3c4d.1

Runs upload their records themselves while they are trained; this command is for those whose tracking server was away.
It may run at any time and any number of times: nothing is sent twice. Exit codes: 0 MLflow has everything, 1 something
is left, 2 the input is wrong.
"""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path

from detr.errors import ExitCode, InputError, UnavailableError, run_command
from experiments.folders.files import STATUS, Folder
from experiments.folders.lease import owner
from experiments.schema.names import CHECKPOINTS, REPORT
from experiments.schema.store import Store, load_store, reason
from experiments.tracking.client import Tracker, configure_mlflow
from experiments.tracking.upload import Upload, left

DIED = "its process died; the same command goes on from its last checkpoint"


def folders(root: Path) -> Iterator[Path]:
    """Folders with a status at and below `root`: those of ablations and sweeps before those of their runs."""
    for path, names, files in os.walk(root):
        names[:] = sorted(set(names) - {CHECKPOINTS, REPORT})
        if STATUS in files:
            yield Path(path)


def reconcile(root: Path) -> list[Path]:
    """Mark as failed the folders that say "running" while neither they nor any run in them has a living owner; returns
    them.
    """
    found = list(folders(root))
    alive = [path for path in found if owner(path)]
    died = []
    for path in found:
        try:
            running = Folder(path).status["state"] == "running"
            if running and not any(living.is_relative_to(path) for living in alive):
                Folder(path).update(state="failed", error=DIED)
                died.append(path)
        except (InputError, OSError):
            continue  # not of our making, or not ours to write
    return died


def sync(store: Store, roots: list[Path]) -> int:
    """Reconcile and upload all folders below `roots`, and say what is left; returns the exit code."""
    tracker, complete = Tracker(store), True
    for root in roots:
        for path in reconcile(root):
            _say(f"{path}: {DIED}")
        for path in folders(root):
            try:
                before = left(path)
                Upload(path, tracker).send()
                after = left(path)
            except InputError as error:
                before, after = "", str(error)
            if before or after:
                _say(f"{path}: {f'left: {after}' if after else f'sent {before}'}")
            complete &= not after
    return ExitCode.DONE if complete else ExitCode.FAILED


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="*", type=Path, help="of runs or ablations (default: run_root of mlflow.yaml)")
    given = parser.parse_args(arguments).folder
    configure_mlflow()
    return run_command(lambda: sync_given(given))


def sync_given(given: list[Path]) -> int:
    """Synchronise these folders, or the run root if there are none; returns the exit code."""
    store = load_store()
    if missing := [path for path in given if not path.is_dir()]:
        raise InputError(f"{missing[0]}: there is no such folder")
    try:
        return sync(store, given or [store.run_root])
    except Exception as error:  # HTTP, SQL, files: what a tracking server that is away may raise has no common class
        told = reason(error, store.tracking_uri)[:300]
        raise UnavailableError(f"{store.address} cannot be reached ({told})") from error


def _say(text: str) -> None:
    """Print a line. Control characters that another's file has put into it do not reach the terminal."""
    sys.stdout.write("".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
