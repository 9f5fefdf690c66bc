"""What MLflow has of run directories, and what it ought to have."""

import sqlite3
from collections import Counter
from pathlib import Path

from experiments.folders.files import Journal
from experiments.schema import names
from experiments.schema.store import load_store
from experiments.tracking import client


def stored(store_file: Path) -> dict[str, Counter]:
    """name of each run -> how often MLflow has each (key, step) of it."""
    with sqlite3.connect(load_store(store_file).database) as connection:
        runs = connection.execute("SELECT run_uuid, name FROM runs WHERE lifecycle_stage = 'active'").fetchall()
        points = {
            name: Counter(connection.execute("SELECT key, step FROM metrics WHERE run_uuid = ?", [run_id]).fetchall())
            for run_id, name in runs
        }
    assert len(points) == len(runs), "two runs of one name"
    return points


def expected(directory) -> Counter:
    """Every (key, step) of the journals, once."""
    lines = directory.records.read() + Journal(directory.path / names.SYSTEM).read()
    return Counter((point.key, point.step) for line in lines for point in client.points(line))
