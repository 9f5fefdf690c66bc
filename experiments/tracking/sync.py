"""Send to MLflow what it lacks of the run directories, and mark the runs that died.

    detr-sync                 all folders below run_root of mlflow.yaml
    detr-sync runs/lr_clip-1a2b3c4d.1

Runs send their records themselves while they are trained; this is for those whose tracking server was away. It may run
at any time and any number of times: nothing is sent twice. Exit codes: 0 MLflow has everything, 1 something is left,
2 the input is wrong.
"""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path

from detr.errors import InputError
from experiments.folders.files import STATUS, Folder
from experiments.folders.lease import owner
from experiments.schema.names import CHECKPOINTS, REPORT
from experiments.schema.store import Store, StoreError, load_store, reason
from experiments.tracking.client import Tracker
from experiments.tracking.upload import Upload, left

DIED = "its process died; the same command goes on from its last checkpoint"


def folders(root: Path) -> Iterator[Path]:
    """Folders with a status below `root` and that itself, those of ablations and sweeps before those of their runs."""
    for path, names, files in os.walk(root):
        names[:] = sorted(set(names) - {CHECKPOINTS, REPORT})
        if STATUS in files:
            yield Path(path)


def reconcile(root: Path) -> list[Path]:
    """Mark as failed what says that it is running and has no living owner, nor has any run in it; returns these."""
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
    return 0 if complete else 1


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="*", type=Path, help="of runs or ablations; run_root of mlflow.yaml without")
    given = parser.parse_args(arguments).folder
    try:
        store = load_store()
        if missing := [path for path in given if not path.is_dir()]:
            raise InputError(f"{missing[0]}: there is no such folder")
    except (InputError, StoreError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    try:
        return sync(store, given or [store.run_root])
    except Exception as error:  # HTTP, SQL, files: what a tracking server that is away may raise has no common class
        told = reason(error, store.tracking_uri)[:300]
        sys.stderr.write(f"error: {store.address} cannot be reached ({told})\n")
        return 1


def _say(text: str) -> None:
    """Print a line; what a file of another's making has put into it cannot steer the terminal."""
    sys.stdout.write("".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
