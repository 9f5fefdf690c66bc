"""What tests of all rooms share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)  # tensors are tiny here, and threads of several busy processes wait for each other


@pytest.fixture(autouse=True)
def _one_thread():
    """A test may change it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh interpreter and return what it printed."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def command():
    """Run `experiments/run.py`, or sweep.py, on a store of the test's own; returns the completed process."""

    def run(
        store: Path, *overrides: str, program: str = "run.py", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        store.mkdir(parents=True, exist_ok=True)
        if not (store / "mlflow.yaml").exists():
            (store / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
        variables = os.environ | {"DETR_STORE": str(store / "mlflow.yaml"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
            variables.pop(name, None)
        return subprocess.run(
            [sys.executable, str(ROOT / "experiments" / program), *overrides],
            cwd=store,
            env=variables | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """What `experiments/run.py` answers to overrides that it refuses: exit code, stdout, stderr. In this process, since
    the imports of a new one take longer than the answer.
    """
    from experiments.run import main

    (tmp_path / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
    monkeypatch.setenv("DETR_STORE", str(tmp_path / "mlflow.yaml"))
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)

    def run(*overrides: str) -> tuple[int, str, str]:
        code = main(list(overrides))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def small_disk(tmp_path):
    """Mount an empty file system of so many kilobytes, which becomes full like any other; needs root."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk-{kilobytes}"
        folder.mkdir()
        options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            subprocess.run(options, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a file system of known size cannot be mounted here: {error}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
