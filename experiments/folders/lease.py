"""Lease of a folder: one writer, on one machine or on several that share a file system.

lease.json names the owner: machine, process, and since when. While the owner lives its heartbeat renews the file's
time. The next process takes a lease over when the owner is dead: on the same machine when its process is gone, from
another machine when the heartbeat is older than EXPIRY_SECONDS. Both times are the file system's, so clocks that differ
do no harm. An owner that finds another's name in the file (it was suspended, or cut off) ends at once.
"""

import os
import platform
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import psutil
from filelock import FileLock

from detr.errors import ExitCode, InputError
from experiments.folders.files import Folder, read_json, write_json

LEASE, GUARD = "lease.json", "lease.lock"
BEAT_SECONDS, EXPIRY_SECONDS = 20.0, 180.0  # network file systems may show a file's time a minute late


@dataclass(frozen=True)
class Owner:
    """Process that holds a lease."""

    token: str  # unique
    host: str
    machine: str  # identifies the running system and its process numbers: host names repeat, in containers above all
    pid: int
    started: float  # of the process, s since 1970: numbers of processes repeat as well
    since: str  # when the lease was taken

    @classmethod
    def me(cls) -> "Owner":
        """This process as an owner, with a new token."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        started = psutil.Process().create_time()
        return cls(uuid.uuid4().hex, platform.node(), _machine(), os.getpid(), started, now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class Held(InputError):
    """Another process has the folder; the message says which."""

    exit_code = ExitCode.HELD


class Lease:
    """Right to write to a folder, held inside the block. Held is raised if a living process has it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.owner, self.ended = folder, Owner.me(), threading.Event()
        # Held by whoever looks and takes, for a moment; the kernel frees it when its process dies.
        self.guard = FileLock(folder / GUARD, poll_interval=0.01)
        self.thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        with self.guard:
            if holder := owner(self.folder):
                raise Held(f"{self.folder} is being written by {holder}")
            write_json(self.folder / LEASE, asdict(self.owner))
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()
        with suppress(OSError), self.guard:  # a lease that stays is free when its process has ended
            if self._is_mine():
                (self.folder / LEASE).unlink()

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            try:
                if not self._is_mine():
                    sys.stderr.write(f"{self.folder} was taken over by {owner(self.folder)}: nothing more is written\n")
                    sys.stderr.flush()
                    os._exit(ExitCode.HELD)  # at once: whatever this process is about to write is another's now
                os.utime(self.folder / LEASE)
            except OSError:
                continue  # the file system does not answer; who takes over will be seen when it does

    def _is_mine(self) -> bool:
        found = _read(self.folder)
        return found is not None and found.token == self.owner.token


@contextmanager
def held(folder: Path) -> Iterator[Folder]:
    """Make the folder of an ablation or sweep, and hold its lease if it is free: commands that run the same at once
    share the work. InputError if it cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(Held):
                stack.enter_context(Lease(folder))
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); run_root of mlflow.yaml says where runs go"
            ) from None
        yield Folder(folder)


def owner(folder: Path) -> Owner | None:
    """Living process that holds the folder's lease; None if there is none."""
    found = _read(folder)
    if found is None:
        return None
    if found.machine == _machine():
        return found if _runs(found) else None
    return found if _age(folder / LEASE) < EXPIRY_SECONDS else None


def _read(folder: Path) -> Owner | None:
    """Owner that the file names; None if there is no file, or one that no lease wrote."""
    try:
        content = read_json(folder / LEASE, {})
        found = Owner(**content)
    except (InputError, TypeError):
        return None
    sound = type(found.pid) is int and type(found.started) is float and type(found.token) is str
    return found if sound else None


def _runs(found: Owner) -> bool:
    try:
        process = psutil.Process(found.pid)
        return abs(process.create_time() - found.started) < 10 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return False


def _age(path: Path) -> float:
    """Seconds since the file's time, by the clock that sets the times of its file system."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="now.") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()
