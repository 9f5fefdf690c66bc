"""What tests of all rooms share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh interpreter and return what it printed."""

    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def command():
    """Run `experiments/run.py` on a store of the test's own; returns the completed process with its texts."""

    def run(store: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
        store.mkdir(parents=True, exist_ok=True)
        if not (store / "mlflow.yaml").exists():
            (store / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
        variables = os.environ | {"DETR_STORE": str(store / "mlflow.yaml"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
            variables.pop(name, None)
        return subprocess.run(
            [sys.executable, str(ROOT / "experiments/run.py"), *overrides],
            cwd=store,
            env=variables | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
