"""MLflow's database, made on first use."""

import logging
import sqlite3

from filelock import FileLock

from experiments.schema.store import SQLITE, Store


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
