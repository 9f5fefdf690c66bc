"""What `make ui` starts."""

import os
import sys
import time
from contextlib import suppress

import psutil
import yaml

from experiments.schema.store import ROOT
from experiments.services.command import free_ports


def test_the_ui_listens_on_this_machine_alone(tmp_path):
    (port,) = free_ports(1)
    settings = yaml.safe_load((ROOT / "mlflow.yaml").read_text())
    settings["server"]["port"] = port
    (tmp_path / "mlflow.yaml").write_text(yaml.safe_dump(settings))
    variables = os.environ | {"DETR_STORE": str(tmp_path / "mlflow.yaml")}
    with (tmp_path / "log").open("w") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "experiments.services.mlflow_server"],
            cwd=ROOT,
            env=variables,
            stdout=log,
            stderr=log,
        )
    try:
        deadline, places = time.monotonic() + 120, set()
        while not places and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
            places = listening(process)
        assert places == {("127.0.0.1", port)}, (tmp_path / "log").read_text()
    finally:
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Where it and its children wait for connections."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found |= {tuple(c.laddr) for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return found
