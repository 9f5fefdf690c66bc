"""The image files of a split: there, readable, of the stated size, and each only once."""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from detr.data.image import read_image
from detr.doctor.records import Finding, Records, Sound, some
from detr.errors import InputError


class _File(NamedTuple):
    fault: str  # "" where there is none
    detail: str
    digest: bytes | None


def _check_file(folder: Path, image: Sound) -> _File:
    """Read and decode one image file."""
    path = folder / image.values["file_name"]
    height, width = image.values.get("height"), image.values.get("width")
    size = (height, width) if height and width else None
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return _File("leads-out", "", None)
        digest = hashlib.sha256(path.read_bytes()).digest()
    except FileNotFoundError:
        return _File("missing-file", "", None)
    except (OSError, RuntimeError, ValueError) as error:  # a folder, no permission, a circle of links, an odd name
        return _File("unreadable", str(error), None)
    try:
        found = tuple(read_image(path).shape[-2:])  # upright
        if size in (None, found):
            return _File("", "", digest)
    except InputError as error:
        return _File("unreadable", str(error), digest)
    try:
        read_image(path, size)
    except InputError:
        return _File("wrong-size", f"{found[1]} x {found[0]}", digest)
    return _File("", "", digest)


def check_files(records: Records, advance: Callable[[], None]) -> tuple[dict[bytes, str], list[Finding]]:
    """Decode all images; returns file names by the hash of their content, and the findings."""
    named = [image for image in records.images if "file_name" in image.values]

    def check(image: Sound) -> _File:
        file = _check_file(records.folder, image)
        advance()
        return file

    with ThreadPoolExecutor() as pool:
        files = list(pool.map(check, named))
    faulty: dict[str, list[str]] = defaultdict(list)
    by_digest: dict[bytes, str] = {}
    for image, file in zip(named, files, strict=True):
        name = image.values["file_name"]
        shown = f"{name} ({file.detail})" if file.fault == "wrong-size" else name
        if file.fault:
            faulty[file.fault].append(shown)
        elif file.digest and by_digest.setdefault(file.digest, name) != name:
            faulty["same-content"].append(f"{name} = {by_digest[file.digest]}")
    listed = {image.values["file_name"] for image in named}
    faulty["unlisted"] = sorted(e.name for e in records.folder.iterdir() if e.is_file() and e.name not in listed)
    findings = [
        found
        for severity, check_name, what, remedy in (
            ("error", "missing-file", "image file that is not there", "add it or drop its record"),
            ("error", "unreadable", "image file that cannot be read", "replace it or drop its record"),
            ("error", "wrong-size", "image of another size than its record says", "correct width, height and boxes"),
            ("error", "leads-out", "file name that leads out of the image folder", "move the file into the folder"),
            ("warning", "same-content", "two files with the same content", "drop one and its record"),
            ("note", "unlisted", "file in the image folder without a record", "none, if it is not meant to be used"),
        )
        for found in some(severity, records.split, check_name, what, "files", faulty[check_name], remedy)
    ]
    return by_digest, findings
