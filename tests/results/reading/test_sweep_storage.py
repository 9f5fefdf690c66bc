"""Which databases the reader of sweeps connects to."""

import json
from dataclasses import replace

import pytest

from experiments.results.reading.sweep_trials import load_studies, trusted_address
from experiments.schema import names
from experiments.schema.store import StoreError, load_store, with_driver, without_password

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
        "a-b://db:5433/sweeps",  # no URL
        "postgresql://db:port/sweeps",
        "postgresql://them@elsewhere",
    ],
)
def test_a_database_that_a_tag_alone_names_is_refused(store, address):
    with pytest.raises(StoreError, match="which this store does not know") as refusal:
        trusted_address(store, "study", address)
    assert f"optuna_storage: {without_password(address)}" in str(refusal.value)


def test_a_refusal_shows_no_password(store):
    with pytest.raises(StoreError, match="which this store does not know") as refusal:
        trusted_address(store, "study", "postgresql://them:s3cret@elsewhere/sweeps?password=s3cret")
    assert "s3cret" not in str(refusal.value)


def test_the_database_of_the_store_is_opened_with_the_reader_s_own_account_and_driver(store):
    found = trusted_address(store, "study", "postgresql+psycopg2://them@db:5433/sweeps?passfile=theirs")
    assert found == with_driver(store.optuna_storage)


def test_the_database_of_a_sweep_that_was_started_here_is_opened(store):
    about = store.run_root / "study" / names.TRACKED
    about.parent.mkdir()
    about.write_text(json.dumps({"name": "x", "tags": {names.STORAGE: ELSEWHERE}}))
    assert trusted_address(store, "study", ELSEWHERE) == ELSEWHERE
    of_a_colleague = ELSEWHERE.replace("them@", "colleague@")  # whose machine works at the same study
    assert trusted_address(store, "study", of_a_colleague) == ELSEWHERE
    with pytest.raises(StoreError):
        trusted_address(store, "another", ELSEWHERE)
    with pytest.raises(StoreError):
        trusted_address(store, "study", ELSEWHERE + "2")


def test_a_store_whose_sweeps_are_in_a_journal_knows_no_database(store):
    with pytest.raises(StoreError, match="which this store does not know"):
        trusted_address(replace(store, optuna_storage="/runs/sweeps.journal"), "study", "a-b://")


@pytest.mark.parametrize("content", ["", "[]", '{"tags": []}', '{"tags": {}}', '{"tags": {"detr.storage": []}}'])
def test_a_damaged_folder_names_no_database(store, content):
    about = store.run_root / "study" / names.TRACKED
    about.parent.mkdir()
    about.write_text(content)
    with pytest.raises(StoreError):
        trusted_address(store, "study", ELSEWHERE)


@pytest.mark.parametrize("content", [b"", b"root:x:0:0:root\n", b"[1]\n", b'{"op_code": 0}\n', b"\xff\xfe\n"])
def test_a_file_that_is_no_journal_of_optuna_is_told(store, tmp_path, content):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(StoreError, match=rf"{tmp_path}/journal"):
        load_studies(store, "study", str(tmp_path / "journal"))


def test_a_database_without_studies_is_told(store, tmp_path):
    (tmp_path / "sweeps.db").touch()
    with pytest.raises(StoreError, match=r"sweeps\.db: cannot be read as a sweep's storage \(.*no such table"):
        load_studies(store, "study", f"sqlite:///{tmp_path}/sweeps.db")


def test_a_database_that_is_down_is_told_without_its_password(store):
    down = replace(store, optuna_storage="postgresql://me:s3cret@127.0.0.1:9/sweeps")
    with pytest.raises(StoreError, match=r"//me@127\.0\.0\.1:9/sweeps: cannot be read .* PGPASSWORD") as fault:
        load_studies(down, "study", "postgresql://me@127.0.0.1:9/sweeps")
    assert "s3cret" not in str(fault.value)


@pytest.mark.parametrize("address", ["/runs/sweeps.journal", "sqlite:////runs/sweeps.db"])
def test_files_are_read_where_they_are(store, address):
    assert trusted_address(store, "study", address) == address
