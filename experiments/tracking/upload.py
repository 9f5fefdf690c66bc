"""Upload of one folder: compare it with what MLflow has got of it, and send the difference.

The folder is the truth, and MLflow gets it whenever it can be reached: while a run is trained, or any time after. What
was sent is noted in uploaded.json after each call. A call that a kill or a lost reply keeps from being noted is made
again and changes nothing: to MLflow two metrics are the same if step, time and value are.
"""

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow.entities import Metric

from detr.errors import InputError
from experiments.folders.files import UPLOADED, Folder, Journal, read_json, write_json
from experiments.schema import names
from experiments.schema.names import TRACKED
from experiments.tracking import client
from experiments.tracking.client import BATCH, Tracker

JOURNALS = (names.RECORDS, names.SYSTEM)
NOTHING: dict[str, Any] = {"run_id": None, "parent": None, "tracked": None, "state": None, "files": {}, "journals": {}}
LOCK, LOCK_SECONDS = "upload.lock", 60


class Upload:
    """Upload of the folder of a run, an ablation or a sweep. Its tracked.json holds

    name, tags      of the MLflow run
    parent          path from here to the folder of the ablation or sweep; absent in that itself
    experiment      name of the MLflow experiment; absent if there is a parent, whose it is
    params          flattened settings

    and its uploaded.json run_id, parent (its run id), tracked and state (as MLflow has them), files (name -> size and
    time), and journals (name -> offset behind the last line that was sent, and that line's place). InputError names a
    file that is not so.
    """

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self.path, self.tracker = path, tracker
        self.known: str | None = None  # the run id, once MLflow said that it has it

    def send(self) -> None:
        """Send what MLflow lacks, unless another process is sending it already."""
        if not (self.path / TRACKED).exists() or self._is_complete():
            return
        try:
            with FileLock(self.path / LOCK, timeout=0):
                run_id = self._open()
                for name in JOURNALS:
                    self._send_journal(run_id, name)
                self._send_files(run_id)
                self._send_state(run_id)
        except Timeout:
            pass

    def open(self) -> str:
        """Id of the folder's MLflow run, which is created if there is none."""
        with FileLock(self.path / LOCK, timeout=LOCK_SECONDS):
            return self._open()

    def _is_complete(self) -> bool:
        """Whether there is nothing to send. MLflow itself is asked for ablations and sweeps alone, and once: a store
        that was created anew lacks them, and gets their runs again as well.
        """
        if left(self.path):
            return False
        above = parent(self.path)
        if above is None:
            return self.known is not None
        return noted(self.path)["parent"] == noted(above)["run_id"]

    def _open(self) -> str:
        self.noted, tracked = noted(self.path), _tracked(self.path)
        if self.known is None or self.known != self.noted["run_id"]:
            above = parent(self.path)
            parent_id = Upload(above, self.tracker).open() if above else None
            same = self.noted["run_id"] and self.noted["parent"] == parent_id
            if not (same and self.tracker.knows(self.noted["run_id"])):
                experiment = str(_tracked(above or self.path).get("experiment"))
                tags = tracked["tags"] | {names.RUN_DIRECTORY: str(self.path.resolve())}
                self.noted = NOTHING
                self._note(run_id=self.tracker.create(experiment, tracked["name"], tags, parent_id), parent=parent_id)
            self.known = self.noted["run_id"]
        if self.noted["tracked"] != tracked:
            self.tracker.set_tags(self.known, tracked["tags"])
            self.tracker.log_params(self.known, tracked.get("params", {}))
            self._note(tracked=tracked)
        return self.known

    def _send_journal(self, run_id: str, name: str) -> None:
        journal, (offset, last) = Journal(self.path / name), _reached(self.noted, name)
        if journal.size < offset:
            offset = 0  # a power failure took lines that MLflow has; those that come again are known by their place
        batch: list[Metric] = []
        end = offset
        for line, end in journal.lines(offset):
            if line.place > last:
                batch += client.points(line)
                last = line.place
            if len(batch) > 0.9 * BATCH:
                self._send_metrics(run_id, batch, {name: [end, *last]})
                batch = []
        if end > offset:
            self._send_metrics(run_id, batch, {name: [end, *last]})

    def _send_metrics(self, run_id: str, batch: list[Metric], reached: dict[str, list]) -> None:
        for i in range(0, len(batch), BATCH):
            self.tracker.log_metrics(run_id, batch[i : i + BATCH])
        self._note(journals=self.noted["journals"] | reached)

    def _send_files(self, run_id: str) -> None:
        for name, path, stamp in changed_files(self.path, self.noted):
            self.tracker.log_file(run_id, path, name.rpartition("/")[0] or None)
            self._note(files=self.noted["files"] | {name: stamp})

    def _send_state(self, run_id: str) -> None:
        state = _state(self.path)
        if self.noted["state"] != state:
            self.tracker.close(run_id, *state)
            self._note(state=state)

    def _note(self, **values: Any) -> None:
        self.noted = self.noted | values
        write_json(self.path / UPLOADED, self.noted)


def left(path: Path) -> str:
    """Parts of the folder that MLflow lacks, in words; "" if it has all."""
    if not (path / TRACKED).exists():
        return ""
    known, parts = noted(path), []
    lines = sum(Journal(path / name).count(_reached(known, name)[0]) for name in JOURNALS)
    if lines:
        parts.append(f"{lines} records")
    if count := len(changed_files(path, known)):
        parts.append(f"{count} files")
    if known["state"] != _state(path):
        parts.append("its state")
    return ", ".join(parts)


def changed_files(path: Path, known: dict[str, Any]) -> list[tuple[str, Path, list[int]]]:
    """Artifact name, path, and [size, time] of the files that MLflow lacks in their present state.

    Files of a run are sent when it has ended. Links that lead out of the folder are left out.
    """
    if "parent" in _tracked(path) and Folder(path).status["state"] == "running":
        return []
    found = {name: path / name for name in (*names.FILES, names.DESIGN, names.SPEC, names.ANNOTATIONS)}
    found |= {f"{names.REPORT}/{file.name}": file for file in sorted((path / names.REPORT).glob("*"))}
    weights = names.CHECKPOINTS
    found |= {f"{weights}/{name}": path / name for name in ("best.safetensors", "best_ema.safetensors")}
    for last in sorted(folder for folder in (path / weights).glob("step-*") if not folder.suffix)[-1:]:
        found[f"{weights}/last/model.safetensors"] = last / "model.safetensors"
    changed = []
    for name, file in found.items():
        if file.is_file() and file.resolve().is_relative_to(path.resolve()):
            stamp = [file.stat().st_size, file.stat().st_mtime_ns]
            if known["files"].get(name) != stamp:
                changed.append((name, file, stamp))
    return changed


def parent(path: Path) -> Path | None:
    """Folder of the ablation or sweep that a run belongs to; None if the folder is one itself."""
    relative = _tracked(path).get("parent")
    if relative is None:
        return None
    above = (path / relative).resolve()
    if above == path.resolve() or not path.resolve().is_relative_to(above):
        raise InputError(f"{path / TRACKED}: the parent {relative!r} does not hold this folder")
    return above


def noted(path: Path) -> dict[str, Any]:
    """Content of uploaded.json; NOTHING before the first upload."""
    content = NOTHING | read_json(path / UPLOADED, {})
    if not (isinstance(content["files"], dict) and isinstance(content["journals"], dict)):
        raise InputError(f"{path / UPLOADED}: files and journals must be objects")
    return content


def _tracked(path: Path) -> dict[str, Any]:
    content = read_json(path / TRACKED)
    parts = {"name": str, "tags": dict, "params": dict, "parent": str}
    wrong = [key for key, kind in parts.items() if not isinstance(content.get(key, kind()), kind)]
    if wrong or not {"name", "tags"} <= content.keys():
        raise InputError(f"{path / TRACKED}: must hold name, tags and params, and {wrong} are of a wrong kind")
    return content


def _reached(known: dict[str, Any], name: str) -> tuple[int, tuple[int, bool]]:
    """Offset behind the last line that was sent, and that line's place."""
    offset, step, evaluated = known["journals"].get(name, (0, -1, False))
    return offset, (step, evaluated)


def _state(path: Path) -> list[str]:
    status = Folder(path).status
    return [status["state"], str(status.get("error", ""))]
