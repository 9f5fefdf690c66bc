"""The addresses of results in mlflow.yaml, read the same way by writer, readers and UI command."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from detr.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SQLITE, HTTP = "sqlite:///", ("http://", "https://")


class StoreError(InputError):
    """mlflow.yaml is wrong, or the store is not one; the message names the key and the remedy."""


@dataclass(frozen=True)
class Store:
    """The content of mlflow.yaml with paths made absolute."""

    tracking_uri: str
    artifact_root: str
    run_root: Path
    ablations: str  # experiment of ablations
    sweeps: str  # experiment of sweeps
    host: str
    port: int
    optuna_storage: str | None = None  # database of sweeps; None: a journal below the run root

    @property
    def is_server(self) -> bool:
        """Whether an MLflow server stands between us and its database."""
        return self.tracking_uri.startswith(HTTP)

    @property
    def address(self) -> str:
        """The tracking_uri as it may be shown."""
        return without_password(self.tracking_uri)

    @property
    def artifact_uri(self) -> str | None:
        """Where new experiments keep their artifacts; None: a server decides."""
        if self.is_server:
            return None
        return self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).as_uri()

    @property
    def database(self) -> Path | None:
        """File of the SQLite store; None where the store is a server or another database."""
        return Path(self.tracking_uri.removeprefix(SQLITE)) if self.tracking_uri.startswith(SQLITE) else None


def load_store(path: Path | None = None) -> Store:
    """Read `path`, or the file that DETR_STORE names, or mlflow.yaml at the repository root."""
    path = Path(path or os.environ.get("DETR_STORE") or ROOT / "mlflow.yaml").resolve()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); DETR_STORE may name another file") from None
    except yaml.YAMLError as error:
        raise StoreError(f"{path}: not valid YAML ({str(error).splitlines()[-1].strip()})") from None
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _get(path, content, "tracking_uri", str)
    if uri.startswith(SQLITE):
        uri = SQLITE + str(path.parent / uri.removeprefix(SQLITE))
    if uri.startswith(HTTP) and "@" in uri.split("/")[2]:  # MLflow's own messages have the address
        raise StoreError(
            f"{path}: tracking_uri, or MLFLOW_TRACKING_URI, holds a name or a password, which messages would show; "
            "give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, a token as MLFLOW_TRACKING_TOKEN"
        )
    artifacts = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or _get(path, content, "artifact_root", str)
    return Store(
        tracking_uri=with_driver(uri),
        artifact_root=artifacts if "://" in artifacts else str(path.parent / artifacts),
        run_root=path.parent / _get(path, content, "run_root", str),
        ablations=_get(path, content, "experiments.ablations", str),
        sweeps=_get(path, content, "experiments.sweeps", str),
        host=os.environ.get("MLFLOW_HOST") or _get(path, content, "server.host", str),
        port=int(os.environ.get("MLFLOW_PORT") or _get(path, content, "server.port", int)),
        optuna_storage=_get(path, content, "optuna_storage", str) if "optuna_storage" in content else None,
    )


def _get(path: Path, content: Any, key: str, kind: type) -> Any:
    value = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise StoreError(f"{path}: {key} must be a {kind.__name__}, not {value!r}")
    return value


def with_driver(address: str) -> str:
    """postgresql:// with the driver that is installed; which one SQLAlchemy takes by itself depends on its release."""
    for driver in ("psycopg", "psycopg2"):
        if address.startswith("postgresql://") and find_spec(driver):
            return address.replace("postgresql", f"postgresql+{driver}", 1)
    return address


def without_password(address: str) -> str:
    """The address as it may be shown and stored."""
    if "://" not in address or address.startswith(SQLITE):
        return address
    import sqlalchemy  # takes a fifth of a second, and most commands show no address

    try:
        url = sqlalchemy.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the second of a port that is no number
        return "(not a URL)"
    return sqlalchemy.URL.create(
        url.drivername, url.username, host=url.host, port=url.port, database=url.database,
        query={key: value for key, value in url.query.items() if not key.lower().endswith(("password", "passwd"))},
    ).render_as_string()  # fmt: skip


def reason(error: BaseException, address: str) -> str:
    """The first line of an error's text, in which `address` stands as it may be shown."""
    return str(error).partition("\n")[0].replace(address, without_password(address))
