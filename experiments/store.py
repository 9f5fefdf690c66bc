"""Where results are: mlflow.yaml, read the same way by the writer, the readers and the UI command."""

import logging
import os
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SQLITE = "sqlite:///"


class StoreError(ValueError):
    """mlflow.yaml is wrong; the message names the key and the remedy."""


@dataclass(frozen=True)
class Store:
    """The content of mlflow.yaml with paths made absolute."""

    tracking_uri: str
    artifact_root: str
    run_root: Path
    ablations: str  # experiment of ablations
    sweeps: str  # experiment of sweeps
    host: str
    port: int

    @property
    def database(self) -> Path | None:
        """File of the SQLite store; None where the store is a server or another database."""
        return Path(self.tracking_uri.removeprefix(SQLITE)) if self.tracking_uri.startswith(SQLITE) else None


def load_store(path: Path | None = None) -> Store:
    """Read `path`, or the file that DETR_STORE names, or mlflow.yaml at the repository root."""
    path = Path(path or os.environ.get("DETR_STORE") or ROOT / "mlflow.yaml").resolve()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); DETR_STORE may name another file") from None
    except yaml.YAMLError as error:
        raise StoreError(f"{path}: not valid YAML ({str(error).splitlines()[-1].strip()})") from None
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _get(path, content, "tracking_uri", str)
    if uri.startswith(SQLITE):
        uri = SQLITE + str(path.parent / uri.removeprefix(SQLITE))
    artifacts = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or _get(path, content, "artifact_root", str)
    return Store(
        tracking_uri=uri,
        artifact_root=artifacts if "://" in artifacts else str(path.parent / artifacts),
        run_root=path.parent / _get(path, content, "run_root", str),
        ablations=_get(path, content, "experiments.ablations", str),
        sweeps=_get(path, content, "experiments.sweeps", str),
        host=os.environ.get("MLFLOW_HOST") or _get(path, content, "server.host", str),
        port=int(os.environ.get("MLFLOW_PORT") or _get(path, content, "server.port", int)),
    )


def _get(path: Path, content: Any, key: str, kind: type) -> Any:
    value = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise StoreError(f"{path}: {key} must be a {kind.__name__}, not {value!r}")
    return value


def initialise(store: Store) -> None:
    """Create the SQLite database under a lock: first use by several processes at once would break it for good."""
    if store.database is None:
        return
    store.database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{store.database}.lock"):
        if not store.database.exists():
            from mlflow import MlflowClient  # takes a second, and only the first use needs it

            logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
            beside = store.database.with_suffix(".unfinished")  # a killed set-up leaves no half-made database
            beside.unlink(missing_ok=True)
            MlflowClient(f"{SQLITE}{beside}").search_experiments(max_results=1)
            beside.rename(store.database)
            with sqlite3.connect(store.database) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # readers and writers do not wait for each other


def serve(store: Store) -> None:
    """Replace this process by the MLflow UI on the store, with two processes instead of MLflow's ten."""
    initialise(store)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    print(f"MLflow UI: http://{store.host}:{store.port}", flush=True)  # noqa: T201
    arguments = ["--backend-store-uri", store.tracking_uri, "--default-artifact-root", store.artifact_root]
    arguments += ["--host", store.host, "--port", str(store.port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *arguments])


if __name__ == "__main__":
    try:
        serve(load_store())
    except StoreError as error:
        sys.exit(f"error: {error}")
