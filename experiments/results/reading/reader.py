"""Readers of a store: one read-only SQL query if it is a SQLite file, else MLflow's client.

Both give the same (a test holds them against each other). The file is read directly because MLflow's own history API
takes 25 times as long, its client takes seconds to start, and it would migrate or create what it only has to read.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd

from experiments.schema.store import Store, StoreError, reason, without_password

LARGEST = 1.7976931348623157e308  # MLflow stores infinity as this
POINT = np.dtype([("run", "i4"), ("step", "i8"), ("time", "i8"), ("value", "f8"), ("nan", "?")])
COLUMNS = {  # table -> the columns that queries name
    "experiments": "experiment_id name lifecycle_stage",
    "runs": "run_uuid experiment_id status start_time end_time lifecycle_stage artifact_uri",
    "tags": "run_uuid key value",
    "params": "run_uuid key value",
    "latest_metrics": "run_uuid key value is_nan",
    "metrics": "run_uuid key value timestamp step is_nan",
}
THREADS = 8  # requests of a tracking server at once


@dataclass(frozen=True)
class StoredRun:
    """One run of MLflow."""

    run_id: str
    experiment: str  # name
    status: str  # RUNNING, SCHEDULED, FINISHED, FAILED or KILLED
    started: int  # milliseconds since 1970
    ended: int | None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)  # the latest value of each


class Reader(Protocol):
    """Read access to a store. Every method raises StoreError with a remedy if the store cannot be read."""

    note: str  # for the reader of results, if the store is not read in the usual way; else ""

    def runs(self, experiment: str | None = None, tags: Mapping[str, str | None] | None = None) -> list[StoredRun]:
        """Runs, newest first, of one experiment or of all that carry these tags (None: with any value)."""

    def run(self, run_id: str) -> StoredRun:
        """One run; StoreError where there is none."""

    def history(self, run_ids: Sequence[str], metric: str) -> pd.DataFrame:
        """Every point of the metric by run and step: run_id (categorical), step, time (milliseconds), value. A step
        that was logged twice, as after a resume, has its last value.
        """

    def file(self, run_id: str, name: str) -> Path | None:
        """Local path of an artifact, downloaded if it is remote; None where the run has none of this name."""


def open_reader(store: Store) -> Reader | None:
    """A reader of the store; None if its SQLite file was not made yet. A reader never creates it.

    A file whose tables are not those that our queries name, as those of a later MLflow, is read through the client.
    """
    if store.database is None:
        return ClientReader(store.tracking_uri)
    if not store.database.exists():
        return None
    reader = SqliteReader(store.database)
    lacking = reader.lacking()
    if not lacking:
        return reader
    check_revision(store.database, reader.revision())
    note = (
        f"{store.database.name} has no {lacking}, as MLflow's files had; it is read through its client, which is slow."
    )
    return ClientReader(store.tracking_uri, note)


def require_reader(store: Store) -> Reader:
    """A reader of the store; StoreError if its SQLite file was not made yet."""
    reader = open_reader(store)
    if reader is None:
        raise StoreError(f"{store.database} is not there yet; the first run makes it")
    return reader


def check_revision(database: Path, revision: str) -> None:
    """StoreError unless the installed MLflow made the file: its client would create or change tables of another one."""
    import mlflow
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(Path(mlflow.__file__).parent / "store/db_migrations")).get_current_head()
    if revision != head:
        raise StoreError(
            f"{database} is of another MLflow (its tables have revision {revision or 'unknown'}, those of the "
            f"installed MLflow {mlflow.__version__} have {head}); install the MLflow that wrote it, or run mlflow db "
            "upgrade"
        )


class SqliteReader:
    """Reads MLflow's SQLite file."""

    note = ""

    def __init__(self, database: Path) -> None:
        self.database = database

    def lacking(self) -> str:
        """The first column of COLUMNS that the file does not have, as table.column; "" if all are there."""
        with self._open() as connection:
            for table, columns in COLUMNS.items():
                there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                if missing := [column for column in columns.split() if column not in there]:
                    return f"{table}.{missing[0]}"
        return ""

    def revision(self) -> str:
        """Revision of MLflow's tables; "" if the file is none of MLflow's."""
        with self._open() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                return ""
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(found[0]) if found else ""

    def runs(self, experiment: str | None = None, tags: Mapping[str, str | None] | None = None) -> list[StoredRun]:
        """As `Reader.runs`."""
        conditions, values = [], []
        if experiment is not None:
            conditions.append("e.name = ?")
            values.append(experiment)
        for key, value in (tags or {}).items():
            wanted = "" if value is None else " AND t.value = ?"
            conditions.append(f"EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = ?{wanted})")
            values += [key] if value is None else [key, value]
        return self._runs(conditions, values)

    def run(self, run_id: str) -> StoredRun:
        """As `Reader.run`."""
        found = self._runs(["r.run_uuid = ?"], [run_id])
        if not found:
            raise StoreError(f"{self.database} has no run {run_id}")
        return found[0]

    def history(self, run_ids: Sequence[str], metric: str) -> pd.DataFrame:
        """As `Reader.history`."""
        with self._open(run_ids) as connection:
            having = connection.execute("SELECT count(*) FROM latest_metrics WHERE key = ?", [metric]).fetchone()[0]
            # The index of the key holds all columns, but of every run: of a few it is quicker to look each one up.
            few = 3 * len(run_ids) < having
            tables = "chosen CROSS JOIN metrics" if few else "metrics CROSS JOIN chosen"  # in this order
            points = connection.execute(
                f"SELECT position, step, timestamp, value, is_nan FROM {tables} USING (run_uuid) "
                "WHERE key = ? ORDER BY timestamp",
                [metric],
            )
            return _frame(np.fromiter(points, dtype=POINT), run_ids)

    def file(self, run_id: str, name: str) -> Path | None:
        """As `Reader.file`. Nothing outside the run's own folder is read, whatever the name says."""
        with self._open() as connection:
            found = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", [run_id]).fetchone()
        if not found:
            return None
        if urlparse(found[0]).scheme not in ("", "file"):
            return _download(f"sqlite:///{self.database}", run_id, name)
        folder = Path(unquote(urlparse(found[0]).path)).resolve()
        if not (folder / name).is_file():  # links that lead round in a circle included, which cannot be resolved
            return None
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) else None

    def _runs(self, conditions: Sequence[str], values: Sequence[str]) -> list[StoredRun]:
        where = " AND ".join(["r.lifecycle_stage = 'active'", "e.lifecycle_stage = 'active'", *conditions])
        with self._open() as connection:
            connection.execute(
                "CREATE TEMP TABLE found AS SELECT r.run_uuid, e.name, r.status, r.start_time, r.end_time "
                f"FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id WHERE {where}",
                values,
            )
            rows = connection.execute("SELECT * FROM found ORDER BY start_time DESC, run_uuid")
            runs = {row[0]: StoredRun(*row) for row in rows}
            for table in ("tags", "params"):
                entries = connection.execute(f"SELECT run_uuid, key, value FROM found JOIN {table} USING (run_uuid)")
                for run_id, key, value in entries:
                    getattr(runs[run_id], table)[key] = value
            latest = "SELECT run_uuid, key, value, is_nan FROM found JOIN latest_metrics USING (run_uuid)"
            for run_id, key, value, is_nan in connection.execute(latest):
                runs[run_id].metrics[key] = float("nan") if is_nan else _finite_or_not(value)
        return list(runs.values())

    @contextmanager
    def _open(self, run_ids: Sequence[str] = ()) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write, with the table `chosen` of these runs and their positions."""
        try:
            connection = sqlite3.connect(f"{self.database.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        except sqlite3.Error as error:
            raise self._fault(error) from error
        try:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("CREATE TEMP TABLE chosen (run_uuid TEXT PRIMARY KEY, position INTEGER) WITHOUT ROWID")
            connection.executemany("INSERT INTO chosen VALUES (?, ?)", zip(run_ids, range(len(run_ids)), strict=True))
            yield connection
        except sqlite3.Error as error:
            raise self._fault(error) from error
        finally:
            connection.close()

    def _fault(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"{self.database} cannot be read as MLflow's database ({error}); is tracking_uri in mlflow.yaml right, and "
            "may this user read the file and its folder?"
        )


class ClientReader:
    """Reads through MLflow's client: from a tracking server, or any other store that MLflow knows."""

    def __init__(self, tracking_uri: str, note: str = "") -> None:
        from mlflow import MlflowClient  # takes seconds, and a SQLite file does without

        self.tracking_uri, self.note = tracking_uri, note
        with self._told():
            self.client = MlflowClient(tracking_uri)

    def runs(self, experiment: str | None = None, tags: Mapping[str, str | None] | None = None) -> list[StoredRun]:
        """As `Reader.runs`."""
        with self._told():
            names = {e.experiment_id: e.name for e in _pages(self.client.search_experiments)}
            ids = [key for key, name in names.items() if experiment in (None, name)]
            conditions = [
                f"tags.`{key}` != ''" if value is None else f"tags.`{key}` = {_quoted(value)}"
                for key, value in (tags or {}).items()
            ]
            found = _pages(self.client.search_runs, ids, " and ".join(conditions)) if ids else []
            return [_stored(run, names[run.info.experiment_id]) for run in found]

    def run(self, run_id: str) -> StoredRun:
        """As `Reader.run`."""
        with self._told():
            found = self.client.get_run(run_id)
            return _stored(found, self.client.get_experiment(found.info.experiment_id).name)

    def history(self, run_ids: Sequence[str], metric: str) -> pd.DataFrame:
        """As `Reader.history`."""
        with self._told(), ThreadPoolExecutor(THREADS) as pool:
            histories = list(pool.map(lambda run_id: self.client.get_metric_history(run_id, metric), run_ids))
        points = [
            (position, p.step, p.timestamp, p.value, p.value != p.value)
            for position, history in enumerate(histories)
            for p in history
        ]
        return _frame(np.sort(np.array(points, dtype=POINT), order="time", kind="stable"), run_ids)

    def file(self, run_id: str, name: str) -> Path | None:
        """As `Reader.file`."""
        return _download(self.tracking_uri, run_id, name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, ImportError) as error:  # the last of a database's driver
            remedy = "is the tracking server running, and tracking_uri in mlflow.yaml its address?"
            if isinstance(error, ImportError):
                remedy = "pip install the driver; that of PostgreSQL with pip install -e '.[postgres]'"
            raise StoreError(
                f"{without_password(self.tracking_uri)} cannot be read ({reason(error, self.tracking_uri)}); {remedy}"
            ) from error


def _frame(points: np.ndarray, run_ids: Sequence[str]) -> pd.DataFrame:
    """Points [N] of POINT in the order in which they were logged -> the frame of `Reader.history`."""
    value = np.where(points["nan"], np.nan, points["value"])
    value[np.abs(value) >= LARGEST] *= np.inf
    frame = pd.DataFrame({"run": points["run"], "step": points["step"], "time": points["time"], "value": value})
    frame = frame.drop_duplicates(["run", "step"], keep="last").sort_values(["run", "step"], ignore_index=True)
    run_id = pd.Categorical.from_codes(np.asarray(frame.pop("run"), np.int64), categories=pd.Index(list(run_ids)))
    frame.insert(0, "run_id", pd.Series(run_id, index=frame.index))
    return frame


def _stored(run: Any, experiment: str) -> StoredRun:
    info, data = run.info, run.data
    metrics = {key: _finite_or_not(value) for key, value in data.metrics.items()}
    head = (info.run_id, experiment, info.status, info.start_time, info.end_time)
    return StoredRun(*head, dict(data.tags), dict(data.params), metrics)


def _quoted(value: str) -> str:
    """A text of MLflow's filters, which know no escape: it may hold one kind of quote, and no more."""
    return f"'{value}'" if "'" not in value else '"' + value.replace('"', "") + '"'


def _finite_or_not(value: float) -> float:
    return value * float("inf") if abs(value) >= LARGEST else value


def _pages(search: Callable[..., Any], *arguments: Any) -> list[Any]:
    """All results of a search that MLflow gives by the page."""
    page = search(*arguments)
    found = list(page)
    while page.token:
        page = search(*arguments, page_token=page.token)
        found += page
    return found


def _download(tracking_uri: str, run_id: str, name: str) -> Path | None:
    """Fetch an artifact into this process's own folder, replacing in one step what was there."""
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file that is read
    target = _downloads() / run_id / name
    if not target.resolve().is_relative_to(_downloads().resolve()):
        return None
    with tempfile.TemporaryDirectory(dir=_downloads()) as beside:
        try:
            found = mlflow.artifacts.download_artifacts(
                f"runs:/{run_id}/{name}", dst_path=beside, tracking_uri=tracking_uri
            )
        except (MlflowException, OSError):
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(found).replace(target)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="detr-artifacts-")  # removed when the process ends


def _downloads() -> Path:
    return Path(_folder().name)
