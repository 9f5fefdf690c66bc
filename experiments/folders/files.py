"""Files of runs, ablations and sweeps that a kill at any moment leaves sound: the truth, of which MLflow gets a copy.

status.json     state, error, warnings, and entries of the folder's owner
tracked.json    name, tags and parameters for MLflow (experiments.tracking.upload)
uploaded.json   parts that MLflow has got (experiments.tracking.upload)
*.jsonl         journals
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detr.errors import InputError
from experiments.schema.names import TRACKED
from experiments.schema.record import RecordLine

STATUS, UPLOADED = "status.json", "uploaded.json"
STATES = ("planned", "running", "finished", "failed", "stopped", "pruned")


class Folder:
    """Folder with a status."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def status(self) -> dict[str, Any]:
        """Content of status.json; state "planned" before the first run."""
        status = read_json(self.path / STATUS, {"state": "planned"})
        if status.get("state") not in STATES:
            raise InputError(f"{self.path / STATUS}: the state {str(status.get('state'))[:50]!r} is none of {STATES}")
        return status

    def update(self, **values: Any) -> None:
        """Change entries of status.json."""
        write_json(self.path / STATUS, self.status | values)

    def track(self, name: str, tags: dict[str, str], **more: Any) -> None:
        """Write tracked.json: name, tags, and the further entries that `Upload` explains."""
        write_json(self.path / TRACKED, {"name": name, "tags": tags} | more)


def not_a_link(path: Path) -> Path:
    """Return the path. InputError if it is a link: a folder that somebody else made could have others' files read and
    written through it.
    """
    if path.is_symlink():
        raise InputError(f"{path}: is a link; records and logs are files of their own")
    return path


class Journal:
    """File of JSON lines, each with its time, that are only ever added: a byte offset stays valid for good.

    InputError if the file is a link.
    """

    def __init__(self, path: Path) -> None:
        self.path = not_a_link(path)

    @property
    def size(self) -> int:
        """Size in bytes; 0 before the first line."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, line: RecordLine, flush: bool = False) -> None:
        """Add a line; `flush` waits until it is on the disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(line.to_dict()).encode() + b"\n")
            if flush:
                file.flush()
                os.fsync(file.fileno())

    def lines(self, offset: int = 0) -> Iterator[tuple[RecordLine, int]]:
        """Lines from the byte `offset` on, each with the offset behind it; half a line that a kill left is not read.

        InputError names file and offset of a line that is no record.
        """
        for text in self._texts(offset):
            yield self._parse(text, offset), offset + len(text)
            offset += len(text)

    def count(self, offset: int = 0) -> int:
        """Number of complete lines from the byte `offset` on, whatever is in them."""
        return sum(1 for _ in self._texts(offset))

    def _texts(self, offset: int) -> Iterator[bytes]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        with file:
            file.seek(offset)
            for text in file:
                if not text.endswith(b"\n"):
                    return
                yield text

    @property
    def end(self) -> int:
        """Offset behind the last complete line."""
        tail = self._tail()
        return self.size - len(tail) + tail.rfind(b"\n") + 1

    def read(self) -> list[RecordLine]:
        """All lines."""
        return [line for line, _ in self.lines()]

    def repair(self) -> RecordLine | None:
        """Cut off half a line that a kill left, so that another can follow; returns the last whole line."""
        tail, end = self._tail(), self.end
        if self.size > end:
            os.truncate(self.path, end)
        *_, last = b"", *tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True)
        return self._parse(last, end - len(last)) if last else None

    def _tail(self) -> bytes:
        """Last million bytes: two lines of records at least."""
        if not self.size:
            return b""
        with self.path.open("rb") as file:
            file.seek(max(0, self.size - 1_000_000))
            return file.read()

    def _parse(self, text: bytes, offset: int) -> RecordLine:
        try:
            return RecordLine.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
            raise InputError(f"{self.path}: no record at byte {offset} ({error}): {text[:80]!s}") from None


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a JSON object; `default`, if given, stands for a missing file. InputError names a file that holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object, not {str(content)[:50]}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.unfinished")  # another process may write the same file
    beside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    beside.replace(path)
