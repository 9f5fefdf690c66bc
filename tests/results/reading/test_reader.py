"""Reading the SQLite file directly gives what MLflow's own client gives."""

import math
import sqlite3
from dataclasses import replace

import pandas as pd
import pytest
from mlflow.entities import Metric

from experiments.results.evidence import gather
from experiments.results.reading.reader import COLUMNS, ClientReader, SqliteReader, open_reader
from experiments.schema import names
from experiments.schema.store import StoreError


@pytest.fixture(scope="module")
def parent(stored):
    return stored.ablation(2, failed=(("recipe=abbreviated,clip=1.0", 0),))


@pytest.fixture(scope="module")
def readers(stored):
    return SqliteReader(stored.store.database), ClientReader(stored.store.tracking_uri)


@pytest.mark.parametrize(
    ("experiment", "tags"),
    [
        (None, {}),
        ("ablations", {names.ABLATION: None}),
        ("ablations", {names.ABLATION: "lr_clip", names.STATE: "failed"}),
        (None, {names.ARM: "recipe=official,clip=0.1"}),
        (None, {names.ARM: "it's"}),
        ("another", {}),
    ],
)
def test_runs_are_those_of_the_client(readers, parent, experiment, tags):
    direct, client = (reader.runs(experiment, tags) for reader in readers)
    assert direct == client
    assert bool(direct) == (experiment != "another" and tags.get(names.ARM) != "it's")
    if direct:
        assert readers[0].run(direct[0].run_id) == readers[1].run(direct[0].run_id) == direct[0]


def test_histories_are_those_of_the_client(stored, readers, parent):
    run_ids = [run.run_id for run in readers[0].runs(tags={names.PARENT: parent})]
    odd = [(1, 3.0, 5), (2, math.nan, 6), (3, math.inf, 7), (4, -math.inf, 8), (1, 4.0, 9)]  # step 1 came again
    stored.client.log_batch(run_ids[1], [Metric("odd", value, time, step) for step, value, time in odd])
    for metric in ("odd", "val/loss", "nothing"):
        frames = [reader.history(run_ids, metric) for reader in readers]
        pd.testing.assert_frame_equal(*frames)
    found = readers[0].history(run_ids, "odd")
    assert found["run_id"].tolist() == [run_ids[1]] * 4 and found["step"].tolist() == [1, 2, 3, 4]
    assert found["value"].tolist() == pytest.approx([4, math.nan, math.inf, -math.inf], nan_ok=True)
    pd.testing.assert_frame_equal(
        readers[0].history(run_ids[:1], "val/loss"), readers[1].history(run_ids[:1], "val/loss")
    )


def test_files_stay_in_the_folder_of_their_run(stored, readers, parent):
    paths = [reader.file(parent, names.DESIGN) for reader in readers]
    assert paths[0].read_text() == paths[1].read_text()
    secret = stored.folder / "artifacts" / "secret.txt"
    secret.write_text("")
    for reader in readers:
        assert reader.file(parent, "../../secret.txt") is None
        assert reader.file(parent, str(secret)) is None
        assert reader.file(parent, "nothing.json") is None and reader.file("0" * 32, names.DESIGN) is None


def test_reading_never_writes(stored, readers, parent):
    before = stored.store.database.read_bytes()
    with pytest.raises(StoreError, match="readonly"), readers[0]._open() as connection:
        connection.execute("DELETE FROM runs")
    assert stored.store.database.read_bytes() == before


def test_what_cannot_be_read_is_one_sentence(stored, tmp_path):
    assert open_reader(replace(stored.store, tracking_uri=f"sqlite:///{tmp_path}/none.db")) is None
    broken = tmp_path / "broken.db"
    broken.write_text("no database" * 500)
    with pytest.raises(StoreError, match=r"broken\.db cannot be read as MLflow's database"):
        open_reader(replace(stored.store, tracking_uri=f"sqlite:///{broken}")).runs()
    with pytest.raises(StoreError, match="has no run"):
        SqliteReader(stored.store.database).run("0" * 32)


def test_a_tracking_server_that_is_down_is_one_sentence(stored, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreError, match="is the tracking server running"):
        open_reader(replace(stored.store, tracking_uri="http://127.0.0.1:9")).runs()


# tables of another MLflow


@pytest.fixture
def copied(stored, parent, tmp_path):
    """The store with a copy of its database, which a test may change, and what is in it."""
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(stored.store.database) as source, sqlite3.connect(path) as target:
        source.backup(target)
    return replace(stored.store, tracking_uri=f"sqlite:///{path}")


def test_tables_that_our_queries_do_not_fit_are_read_by_the_client_with_a_note(copied, parent, monkeypatch):
    usual = open_reader(copied)
    assert isinstance(usual, SqliteReader) and usual.note == ""
    monkeypatch.setitem(COLUMNS, "runs", f"{COLUMNS['runs']} started_at")  # as if MLflow had renamed it
    found = open_reader(copied)
    assert isinstance(found, ClientReader) and "has no runs.started_at" in found.note
    assert found.runs(tags={names.PARENT: parent}) == usual.runs(tags={names.PARENT: parent})
    assert any("runs.started_at" in note for note in gather(copied, parent, replicates=5).notes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE alembic_version SET version_num = 'later'", r"of another MLflow \(its tables have revision later"),
        ("DROP TABLE alembic_version", "revision unknown"),
    ],
)
def test_a_file_of_another_mlflow_is_refused_and_left_as_it_is(copied, change, said):
    """MLflow's client would create the tables that it misses."""
    with sqlite3.connect(copied.database) as connection:
        connection.execute(change)
        connection.execute("ALTER TABLE runs RENAME COLUMN start_time TO started_at")
    before = copied.database.read_bytes()
    with pytest.raises(StoreError, match=said):
        open_reader(copied)
    assert copied.database.read_bytes() == before
