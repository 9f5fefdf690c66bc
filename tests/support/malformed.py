"""Damage to files: what kills, full disks, other programs and ill will leave."""

import json
import random
from pathlib import Path
from typing import Any

STRANGE = [
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "", "x" * 10_000, "../../../../etc/passwd",
    "<script>alert(1)</script>", "!!python/object/apply:os.system [exit]", "\x00\ud800", [], {}, [[]], {"": {"": None}},
]  # fmt: skip
BYTES = [
    b"", b"\x00" * 100, b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\xfd", b"NaN", b"null", b"3",
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.", b"PK\x03\x04", b'"' + b"x" * 1_000_000 + b'"',
]  # fmt: skip


def damage(path: Path, chance: random.Random) -> str:
    """Do one kind of harm to the file; returns what was done."""
    kind = chance.choice(["cut", "flip", "replace", "value", "value", "value", "delete", "folder", "link"])
    if kind in ("delete", "folder", "link"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(chance.choice(["/etc/passwd", "/dev/null", path.name, "..", "nowhere"]))
        return f"{path.name}: {kind}"
    content = path.read_bytes()
    if kind == "cut":
        content = content[: chance.randrange(len(content))] if content else content
    elif kind == "flip":
        for _ in range(chance.randint(1, 5)):
            position = chance.randrange(len(content))
            content = content[:position] + bytes([chance.randrange(256)]) + content[position + 1 :]
    elif kind == "replace":
        content = chance.choice(BYTES)
    else:
        content = changed(content, chance)
    path.write_bytes(content)
    return f"{path.name}: {kind} -> {content[:200]!r}"


def changed(content: bytes, chance: random.Random) -> bytes:
    """JSON, or a line of many, with one value, wherever it is, made strange or left out."""
    lines = content.splitlines() if content.startswith(b'{"time"') else [content]
    number = chance.randrange(len(lines))
    holder = {"": json.loads(lines[number])}
    places = list(_places(holder))
    inside, key = chance.choice(places)
    if chance.random() < 0.2:
        del inside[key]
    else:
        inside[key] = chance.choice(STRANGE)
    lines[number] = json.dumps(holder.get("")).encode()
    return b"\n".join(lines) + b"\n"


def _places(value: Any) -> Any:
    """Every container with every key in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)
