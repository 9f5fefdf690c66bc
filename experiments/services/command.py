"""A PostgreSQL and an MLflow server on this machine, to try what a team shares.

    make services        # and then: export DETR_STORE=services/mlflow.yaml
    make services-stop   # the data stays, and the next start goes on with it

Ablations and sweeps go to the MLflow server and keep their studies in the same PostgreSQL. Both servers listen on the
loopback alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from experiments.launchers.base import importable
from experiments.schema.store import ROOT
from experiments.services.postgres import Postgres, ServiceError, write_private

MLFLOW, OPTUNA = "mlflow", "optuna"  # databases
START_SECONDS = 120  # at the first start the MLflow server makes its tables
STOP_SECONDS = 30


class Services:
    """Both servers, and all that they keep below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.client, self.server = self.folder / "mlflow.yaml", self.folder / "server.yaml"
        self.process_file = self.folder / "server.json"
        self.started: subprocess.Popen | None = None  # the MLflow server, if we started it

    @property
    def ports(self) -> dict[str, int]:
        """Of postgres and mlflow, drawn at the first start."""
        path = self.folder / "ports.json"
        if not path.exists():
            path.write_text(json.dumps(dict(zip(("postgres", "mlflow"), free_ports(2), strict=True))))
        return json.loads(path.read_text())

    @property
    def postgres(self) -> Postgres:
        """The database."""
        return Postgres(self.folder, self.ports["postgres"])

    def start(self) -> None:
        """Start what does not run. ServiceError where that cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)  # PostgreSQL's user passes through, and cannot list it
        postgres, port = self.postgres, self.ports["mlflow"]
        postgres.start((MLFLOW, OPTUNA))
        url = f"http://127.0.0.1:{port}"
        common = {
            "artifact_root": "artifacts",
            "run_root": "runs",
            "experiments": {"ablations": "ablations", "sweeps": "sweeps"},
            "server": {"host": "127.0.0.1", "port": port},
        }
        write_private(self.server, yaml.safe_dump({"tracking_uri": postgres.address(MLFLOW)} | common))
        own = {"tracking_uri": url, "optuna_storage": postgres.address(OPTUNA)}
        write_private(self.client, yaml.safe_dump(own | common))
        if not self.process():
            self._start_server(url)

    def stop(self) -> None:
        """Stop what runs."""
        if process := self.process():
            os.killpg(process.pid, signal.SIGTERM)
            psutil.wait_procs([process], timeout=STOP_SECONDS)
        if self.started:
            self.started.wait()
            self.started = None
        if self.folder.is_dir():
            self.postgres.stop()

    def process(self) -> psutil.Process | None:
        """The MLflow server's, if it lives."""
        with suppress(OSError, ValueError, psutil.Error):
            kept = json.loads(self.process_file.read_text())
            process = psutil.Process(kept["pid"])
            return process if process.create_time() == kept["started"] else None
        return None

    def _start_server(self, url: str) -> None:
        log = self.folder / "server.log"
        with log.open("a") as output:
            self.started = started = subprocess.Popen(
                [sys.executable, "-m", "experiments.services.mlflow_server"],
                cwd=self.folder,
                env=os.environ | importable() | {"DETR_STORE": str(self.server)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.process_file.write_text(
            json.dumps({"pid": started.pid, "started": psutil.Process(started.pid).create_time()})
        )
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            if started.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"the MLflow server did not start: {log.read_text()[-1000:]}")
            time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens at."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def main(arguments: list[str]) -> int:
    """`start` or `stop`, and a folder other than services/ at the repository root; returns the exit code."""
    if not arguments or arguments[0] not in ("start", "stop") or len(arguments) > 2:
        print("error: say start or stop, and a folder or none", file=sys.stderr)
        return 2
    services = Services(Path(arguments[1]) if len(arguments) > 1 else ROOT / "services")
    try:
        services.start() if arguments[0] == "start" else services.stop()
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments[0] == "start":
        print(f"running; use it with  export DETR_STORE={services.client}")
        print(f"MLflow UI             {yaml.safe_load(services.client.read_text())['tracking_uri']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
