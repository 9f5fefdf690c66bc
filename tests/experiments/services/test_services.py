"""What a team shares: mlflow.yaml switches to it, and an ablation and a sweep run against servers started here."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient

from experiments.schema import names
from experiments.schema.store import StoreError, load_store, with_driver
from experiments.services.command import MLFLOW, Services, answers, free_ports, main
from experiments.services.mlflow_server import serve, server_arguments, server_variables
from experiments.services.postgres import lacking

ROOT = Path(__file__).resolve().parents[3]
TINY = (
    "train.evaluations=1",
    "train.batch_size=4",
    "data.shapes_num_train=12",
    "data.shapes_num_val=4",
    "model.hidden_dim=32",
    "model.backbone_width=8",
    "workers=2",
)


# Reading mlflow.yaml


def store_of(folder: Path, **changes):
    content = yaml.safe_load((ROOT / "mlflow.yaml").read_text()) | changes
    (folder / "mlflow.yaml").write_text(yaml.safe_dump(content))
    return load_store(folder / "mlflow.yaml")


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_HOST", "MLFLOW_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_by_default_all_is_in_files_beside_the_configuration(tmp_path):
    store = store_of(tmp_path)
    assert (store.database, store.is_server) == (tmp_path / "store/mlflow.db", False)
    assert store.artifact_uri == (tmp_path / "store/artifacts").as_uri()
    assert store.optuna_storage is None


def test_a_member_of_a_team_names_the_server_alone(tmp_path):
    store = store_of(tmp_path, tracking_uri="http://tracker:5000", optuna_storage="postgresql+psycopg2://me@db/optuna")
    assert (store.database, store.is_server, store.artifact_uri) == (None, True, None)
    assert store.optuna_storage == "postgresql+psycopg2://me@db/optuna"
    with pytest.raises(StoreError, match="http://tracker:5000 is a server"):
        serve(store)


def test_an_address_is_shown_without_its_password(tmp_path):
    store = store_of(tmp_path, tracking_uri="postgresql://me:secret@db/mlflow?password=secret&sslmode=require")
    assert store.address == with_driver("postgresql://me@db/mlflow?sslmode=require")
    assert store.tracking_uri.count("secret") == 2
    for address in ("https://me:secret@tracker", "https://secret@tracker/mlflow"):
        with pytest.raises(StoreError, match="MLFLOW_TRACKING_PASSWORD") as refusal:
            store_of(tmp_path, tracking_uri=address)
        assert "secret" not in str(refusal.value)
    assert store_of(tmp_path, tracking_uri="postgresql://me:secret/mlflow").address == "(not a URL)"  # no host


@pytest.mark.parametrize("root", ["s3://bucket/detr", "artifacts"])
def test_the_server_of_a_team_passes_artifacts_on(tmp_path, root):
    store = store_of(tmp_path, tracking_uri="postgresql+psycopg2://detr@db/mlflow", artifact_root=root)
    arguments = server_arguments(store)
    where = root if "://" in root else str(tmp_path / root)
    assert arguments[:2] == ["--artifacts-destination", where]
    assert server_variables(store)["MLFLOW_BACKEND_STORE_URI"] == store.tracking_uri
    assert store.artifact_uri == (
        root if "://" in root else (tmp_path / root).as_uri()
    )  # for who logs without a server
    assert "--default-artifact-root" in server_arguments(store_of(tmp_path))


@pytest.mark.parametrize("arguments", [[], ["restart"], ["start", "here", "there"]])
def test_only_start_and_stop_are_understood(arguments, capsys):
    assert main(arguments) == 2 and "say start or stop" in capsys.readouterr().err


# Servers


@pytest.fixture(scope="module")
def services():
    """Both servers, below a folder that PostgreSQL's user can reach."""
    if reason := lacking():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="services-") as folder:
        started = Services(Path(folder))
        try:
            started.start()
            yield started
        finally:
            started.stop()


def run(services: Services, program: str, *overrides: str) -> str:
    """What a program prints that works against the servers."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"experiments/{program}"), *overrides, *TINY],
        cwd=services.folder,
        env=os.environ | {"DETR_STORE": str(services.client), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_servers_listen_on_the_loopback_and_keep_the_password_to_themselves(services):
    ports = services.ports.values()
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port in ports]
    assert {(c.laddr.ip, c.laddr.port) for c in listening} == {("127.0.0.1", port) for port in ports}
    for path in (services.client, services.server, services.folder / "passwords"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = (services.folder / "passwords").read_text().strip().rpartition(":")[2]
    assert len(password) > 30
    for path in (services.client, services.server, services.folder / "server.log"):
        assert password not in path.read_text()
    assert password not in command_lines()


def test_a_server_keeps_the_password_of_its_address_from_its_command_line(services, tmp_path):
    password = (services.folder / "passwords").read_text().strip().rpartition(":")[2]
    address = services.postgres.address(MLFLOW).partition("?")[0].replace("@", f":{password}@")
    (port,) = free_ports(1)
    content = yaml.safe_load((ROOT / "mlflow.yaml").read_text())
    content |= {"tracking_uri": address, "server": {"host": "127.0.0.1", "port": port}}
    (tmp_path / "mlflow.yaml").write_text(yaml.safe_dump(content))
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "experiments.services.mlflow_server"],
            cwd=ROOT,
            env=os.environ | {"DETR_STORE": str(tmp_path / "mlflow.yaml")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/health") and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        said = (tmp_path / "log").read_text()
        assert server.poll() is None, said
        MlflowClient(f"http://127.0.0.1:{port}").create_experiment("through another server")
        assert MlflowClient(load_store(services.client).tracking_uri).get_experiment_by_name("through another server")
        assert password not in command_lines() + said
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def command_lines() -> str:
    """Of all processes."""
    return "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))


def test_an_ablation_goes_to_the_server_with_its_files(services):
    output = run(services, "run.py", "horizon=2 steps")
    store = load_store(services.client)
    assert f"MLflow           {store.tracking_uri}" in output
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.ablations)
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags.get(names.ARM) for run in runs} == {None, "single"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    child = next(run for run in runs if names.ARM in run.data.tags)
    assert names.PREDICTIONS in {file.path for file in client.list_artifacts(child.info.run_id)}
    assert list((services.folder / "artifacts").rglob(names.PREDICTIONS))


def test_two_workers_share_a_study_in_the_database(services):
    sweep = {
        "name": "tiny",
        "question": "Does it work?",
        "space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True}},
        "objective": "val/loss",
        "trials": 2,
        "rungs": ["2 steps"],
    }
    path = services.folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"sweep": sweep}))
    run(services, "sweep.py", f"sweep={path}")
    store = load_store(services.client)
    study = optuna.load_study(study_name=None, storage=store.optuna_storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    client = MlflowClient(store.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name(store.sweeps).experiment_id])
    assert len(runs) == 3  # the sweep and its trials
    assert not list(services.folder.glob("runs/*.journal"))


def test_what_was_stopped_goes_on(services):
    services.stop()
    assert services.process() is None and not services.postgres.runs()
    services.start()
    services.start()  # there is nothing left to do
    store = load_store(services.client)
    assert MlflowClient(store.tracking_uri).get_experiment_by_name(store.ablations)
