"""Serve the MLflow UI on the store of mlflow.yaml; for a team, this is its tracking server.

detr-ui      # http://HOST:PORT as mlflow.yaml has them, loopback unless it says otherwise
"""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import NoReturn

from detr.errors import run_command
from experiments.schema.store import Store, StoreError, load_store
from experiments.tracking.database import initialise


def server_arguments(store: Store) -> list[str]:
    """Arguments of `mlflow server`, with two processes instead of MLflow's ten.

    On a database that others can reach it is a team's server: it passes artifacts on to their root, be it a disk or
    s3://..., and those who log need neither that disk nor its credentials.
    """
    root = "--default-artifact-root" if store.database else "--artifacts-destination"
    return [root, store.artifact_root, "--host", store.host, "--port", str(store.port), "--workers", "1"]


def server_variables(store: Store) -> dict[str, str]:
    """Environment of the server beside its arguments: the address may hold a password, and every user of the machine
    can read a command line.
    """
    return {"MLFLOW_BACKEND_STORE_URI": store.tracking_uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(store: Store) -> NoReturn:
    """Replace this process by the MLflow server on the store. StoreError if the store is a server already."""
    if store.is_server:
        raise StoreError(f"tracking_uri={store.address} is a server, and has a UI of its own")
    initialise(store)
    print(f"MLflow UI: http://{store.host}:{store.port}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", *server_arguments(store)]
    os.execve(sys.executable, command, os.environ | server_variables(store))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code, if it returns at all."""
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args(arguments)
    return run_command(lambda: serve(load_store()))


if __name__ == "__main__":
    sys.exit(main())
