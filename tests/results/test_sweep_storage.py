"""Which databases the reader of sweeps connects to."""

import json
from dataclasses import replace

import pytest

from experiments import names
from experiments.results.sweeps import storage_address
from experiments.store import StoreError, load_store, with_driver

ELSEWHERE = "postgresql+psycopg://them@elsewhere/sweeps"


@pytest.fixture
def store(tmp_path):
    return replace(load_store(), run_root=tmp_path, optuna_storage="postgresql://me:secret@db:5433/sweeps")


@pytest.mark.parametrize(
    "address",
    [
        ELSEWHERE,
        "postgresql://me@db/sweeps",  # another port
        "postgresql://me@db:5433/sweeps?host=elsewhere",
        "mysql://me@db:5433/sweeps",
        "no://[address",
    ],
)
def test_a_database_that_a_tag_alone_names_is_refused(store, address):
    with pytest.raises(StoreError, match="which this store does not know") as refusal:
        storage_address(store, "study", address)
    assert f"optuna_storage: {address}" in str(refusal.value)


def test_the_database_of_the_store_is_opened_with_the_reader_s_own_account_and_driver(store):
    found = storage_address(store, "study", "postgresql+psycopg2://them@db:5433/sweeps")
    assert found == with_driver(store.optuna_storage)


def test_the_database_of_a_sweep_that_was_started_here_is_opened(store):
    about = store.run_root / "study" / names.TRACKED
    about.parent.mkdir()
    about.write_text(json.dumps({"name": "x", "tags": {names.STORAGE: ELSEWHERE}}))
    assert storage_address(store, "study", ELSEWHERE) == ELSEWHERE
    with pytest.raises(StoreError):
        storage_address(store, "another", ELSEWHERE)
    with pytest.raises(StoreError):
        storage_address(store, "study", ELSEWHERE + "2")


@pytest.mark.parametrize("content", ["", "[]", '{"tags": []}', '{"tags": {}}', '{"tags": {"detr.storage": []}}'])
def test_a_damaged_folder_names_no_database(store, content):
    about = store.run_root / "study" / names.TRACKED
    about.parent.mkdir()
    about.write_text(content)
    with pytest.raises(StoreError):
        storage_address(store, "study", ELSEWHERE)


@pytest.mark.parametrize("address", ["/runs/sweeps.journal", "sqlite:////runs/sweeps.db"])
def test_files_are_read_where_they_are(store, address):
    assert storage_address(store, "study", address) == address
