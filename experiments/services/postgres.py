"""Private PostgreSQL server in a folder, on the loopback, from Debian's package `postgresql`."""

import os
import pwd
import secrets
import shutil
import subprocess
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType

import psutil

from detr.errors import UnavailableError

ROLE = "detr"
DEBIAN = Path("/usr/lib/postgresql")  # VERSION/bin


class Postgres:
    """Database server below `folder`, which listens at `port` and asks for a password.

    The password is drawn at random and kept in the file `passwords`, in libpq's format, which its owner alone can read.
    PostgreSQL refuses to run as root: started by root it belongs to the user postgres, or else nobody.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.home, self.passwords, self.port = folder / "postgres", folder / "passwords", port

    def address(self, database: str) -> str:
        """Address of a database for SQLAlchemy, without the password: libpq finds it in the file that is named."""
        return f"postgresql+psycopg2://{ROLE}@127.0.0.1:{self.port}/{database}?passfile={self.passwords}"

    def start(self, databases: tuple[str, ...]) -> None:
        """Start the server unless it runs, and make it on first use; these databases exist afterwards."""
        if not self.passwords.exists():
            shutil.rmtree(self.home, ignore_errors=True)  # what a killed first start left
            self._make()
        if not self.runs():
            options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
            self._run("pg_ctl", "start", "-w", "-s", "-l", str(self.home / "server.log"), "-o", options)
        self._create(databases)

    def stop(self) -> None:
        """Stop the server if it runs."""
        if self.runs():
            self._run("pg_ctl", "stop", "-w", "-s", "-m", "fast")

    def runs(self) -> bool:
        """Whether the server's process lives."""
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            process = psutil.Process(int((self.home / "cluster/postmaster.pid").read_text().split()[0]))
            return process.name() == "postgres"
        return False

    def _make(self) -> None:
        password, given = secrets.token_urlsafe(24), self.home / "password"
        self.home.mkdir(mode=0o700)
        write_private(given, password)
        if account := _account():
            for path in (self.home, given):
                shutil.chown(path, account)
        options = ["-U", ROLE, "--auth=scram-sha-256", f"--pwfile={given}", "--encoding=UTF8", "--no-locale"]
        self._run("initdb", *options)
        given.unlink()
        write_private(self.passwords, f"127.0.0.1:{self.port}:*:{ROLE}:{password}\n")

    def _create(self, databases: tuple[str, ...]) -> None:
        where = {"host": "127.0.0.1", "port": self.port, "user": ROLE, "passfile": self.passwords, "dbname": "postgres"}
        with closing(_driver().connect(**where)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                for name in set(databases) - {row[0] for row in cursor.fetchall()}:
                    cursor.execute(f'CREATE DATABASE "{name}"')

    def _run(self, program: str, *options: str) -> None:
        """Run one of PostgreSQL's programs on the data, as its owner."""
        command = [_find(program), "-D", str(self.home / "cluster"), *options]
        done = subprocess.run(
            command, cwd=self.home, user=_account(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            raise UnavailableError(f"{program} failed: {(done.stderr or done.stdout).strip()}")


def missing_postgres() -> str:
    """Reason why PostgreSQL cannot be run here; empty if it can."""
    try:
        _find("initdb"), _driver()
    except UnavailableError as error:
        return str(error)
    return ""


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _account() -> str | None:
    """User that PostgreSQL runs as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def _find(program: str) -> str:
    newest = sorted(DEBIAN.glob(f"*/bin/{program}"), key=lambda path: float(path.parents[1].name))
    found = shutil.which(program) or (str(newest[-1]) if newest else None)
    if not found:
        raise UnavailableError(f"there is no {program} here: apt-get install postgresql")
    return found


def _driver() -> ModuleType:
    try:
        import psycopg2
    except ImportError:
        raise UnavailableError("the driver psycopg2 is missing: pip install -e '.[postgres]'") from None
    return psycopg2
