"""MLflow's database, made on first use, and MLflow's own server and UI on it.

python -m experiments.tracking.server
"""

import logging
import os
import sqlite3
import sys

from filelock import FileLock

from experiments.schema.store import SQLITE, Store, StoreError, load_store


def initialise(store: Store) -> None:
    """Create a database's tables under a lock: first use by several processes at once would break it for good."""
    if store.is_server:
        return
    if store.database is None:
        store.run_root.mkdir(parents=True, exist_ok=True)
        with FileLock(store.run_root / "store.lock"):
            _first_use(store.tracking_uri)
        return
    store.database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{store.database}.lock"):
        if not store.database.exists():
            beside = store.database.with_suffix(".unfinished")  # a killed set-up leaves no half-made database
            beside.unlink(missing_ok=True)
            _first_use(f"{SQLITE}{beside}")
            beside.rename(store.database)
            with sqlite3.connect(store.database) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # readers and writers do not wait for each other


def _first_use(uri: str) -> None:
    from mlflow import MlflowClient  # takes a second, and only the first use needs it

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
    MlflowClient(uri).search_experiments(max_results=1)


def server_arguments(store: Store) -> list[str]:
    """Arguments of `mlflow server` for this store, with two processes instead of MLflow's ten.

    On a database that others can reach it is a team's server: it passes artifacts on to their root, be it a disk or
    s3://..., and those who log need neither that disk nor its credentials.
    """
    root = "--default-artifact-root" if store.database else "--artifacts-destination"
    return [root, store.artifact_root, "--host", store.host, "--port", str(store.port), "--workers", "1"]


def server_variables(store: Store) -> dict[str, str]:
    """Environment of the server beside its arguments. The address may have a password, and every user of the machine
    can read a command line.
    """
    return {"MLFLOW_BACKEND_STORE_URI": store.tracking_uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(store: Store) -> None:
    """Replace this process by the MLflow UI on the store."""
    if store.is_server:
        raise StoreError(f"tracking_uri={store.address} is a server, and has a UI of its own")
    initialise(store)
    print(f"MLflow UI: http://{store.host}:{store.port}", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "mlflow", "server", *server_arguments(store)]
    os.execve(sys.executable, command, os.environ | server_variables(store))


if __name__ == "__main__":
    try:
        serve(load_store())
    except StoreError as error:
        sys.exit(f"error: {error}")
