"""Serve the MLflow UI on the store of mlflow.yaml; for a team, this is its tracking server.

python -m experiments.services.mlflow_server
"""

import os
import sys

from experiments.schema.store import Store, StoreError, load_store
from experiments.tracking.database import initialise


def server_arguments(store: Store) -> list[str]:
    """Arguments of `mlflow server` for this store, with two processes instead of MLflow's ten.

    On a database that others can reach it is a team's server: it passes artifacts on to their root, be it a disk or
    s3://..., and those who log need neither that disk nor its credentials.
    """
    root = "--default-artifact-root" if store.database else "--artifacts-destination"
    return [root, store.artifact_root, "--host", store.host, "--port", str(store.port), "--workers", "1"]


def server_variables(store: Store) -> dict[str, str]:
    """Environment of the server beside its arguments. The address may have a password, and every user of the machine
    can read a command line.
    """
    return {"MLFLOW_BACKEND_STORE_URI": store.tracking_uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(store: Store) -> None:
    """Replace this process by the MLflow UI on the store."""
    if store.is_server:
        raise StoreError(f"tracking_uri={store.address} is a server, and has a UI of its own")
    initialise(store)
    print(f"MLflow UI: http://{store.host}:{store.port}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", *server_arguments(store)]
    os.execve(sys.executable, command, os.environ | server_variables(store))


if __name__ == "__main__":
    try:
        serve(load_store())
    except StoreError as error:
        sys.exit(f"error: {error}")
