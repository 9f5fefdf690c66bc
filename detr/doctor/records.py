"""Annotation files read leniently: what is sound of every record, and everything that is not.

`load_annotations` stops at the first fault; here the same rules, from the same tables, name all of them.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detr.data.coco import FIELDS, OPTIONAL

SEVERITIES = ("error", "warning", "note")  # training refuses it; it spoils learning or figures; worth knowing
Ids = tuple[int | str, ...]


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one split, with everything that has it."""

    severity: str  # of SEVERITIES
    split: str  # "train", "val" or "both"
    check: str  # short and stable, as in "no-extent"
    what: str  # in words
    of: str  # what `ids` are: annotations, images, categories, files, ...
    ids: Ids
    remedy: str

    @property
    def count(self) -> int:
        """How many have it."""
        return len(self.ids)


class Sound(NamedTuple):
    """What is sound of a record."""

    label: int | str  # its id, or its place in the file when the id is not sound
    values: dict[str, Any]  # of the keys that passed


@dataclass(frozen=True)
class Records:
    """The sound part of an annotation file, in its order."""

    split: str
    annotations_file: Path
    folder: Path  # of the images
    images: list[Sound] = field(default_factory=list)
    annotations: list[Sound] = field(default_factory=list)
    categories: list[Sound] = field(default_factory=list)

    @property
    def names(self) -> dict[int, str]:
        """Name by category id; of several with one id the first."""
        return {c.values["id"]: c.values.get("name", "?") for c in self.categories[::-1] if "id" in c.values}


def some(
    severity: str, split: str, check: str, what: str, of: str, ids: Iterable[int | str], remedy: str
) -> Iterator[Finding]:
    """The finding, unless nothing has it."""
    if found := tuple(ids):
        yield Finding(severity, split, check, what, of, found, remedy)


def read_records(split: str, path: Path, folder: Path) -> tuple[Records, list[Finding]]:
    """Read an annotation file, whatever is in it. The findings are those of form, ids and references."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error).splitlines()[0]
        fault = some("error", split, "no-json", f"not a JSON file ({reason})", "files", [str(path)], "export it anew")
        return Records(split, path, folder), list(fault)
    if not isinstance(content, dict):
        remedy = f"write an object with {', '.join(FIELDS)}"
        fault = some("error", split, "no-object", "the file holds no JSON object", "files", [str(path)], remedy)
        return Records(split, path, folder), list(fault)
    sections: dict[str, list[Sound]] = {}
    findings: list[Finding] = []
    lacking = [section for section in FIELDS if not isinstance(content.get(section), list)]
    findings += some("error", split, "no-section", "a list is lacking", "sections", lacking, "add the list")
    for section in FIELDS:
        sections[section], faults = _check_section(split, section, [] if section in lacking else content[section])
        findings += faults
    records = Records(split, path, folder, **sections)
    return records, [*findings, *_check_ids(records), *_check_references(records)]


def _check_section(split: str, section: str, records: list[Any]) -> tuple[list[Sound], list[Finding]]:
    """The sound values of every record, and the findings about the others."""
    rules = FIELDS[section] | (OPTIONAL if section == "annotations" else {})
    faulty: dict[tuple[str, str, str], list[int | str]] = defaultdict(list)  # (check, what, remedy) -> labels
    sound = []
    for position, record in enumerate(records):
        given = record if isinstance(record, dict) else {}
        values = {key: given[key] for key in rules if key in given and rules[key][0](given[key])}
        label = values.get("id", f"{section}[{position}]")
        sound.append(Sound(label, values))
        for key, (_, meaning) in rules.items():
            if key in values or (key not in given and key in OPTIONAL):
                continue
            if key not in given:
                fault = ("lacks-key", f"lack {key}", f"write {key}, {meaning}")
            elif _is_not_finite(given[key]):
                fault = ("not-finite", f"{key} is NaN or infinite", f"write {meaning}, or drop the record")
            else:
                fault = ("wrong-value", f"{key} is not {meaning}", f"write {meaning}, or drop the record")
            faulty[fault].append(label)
    findings = [
        found
        for (check, what, remedy), labels in faulty.items()
        for found in some("error", split, check, what, section, labels, remedy)
    ]
    return sound, findings


def _is_not_finite(value: object) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return any(isinstance(x, float) and not math.isfinite(x) for x in numbers)


def _check_ids(records: Records) -> Iterator[Finding]:
    """Ids and class names stand once."""
    split = records.split
    for section in FIELDS:
        counts = Counter(r.values["id"] for r in getattr(records, section) if "id" in r.values)
        double = [id_ for id_, count in counts.items() if count > 1]
        yield from some("error", split, "duplicate-id", "an id stands twice or more", section, double, "number anew")
    counts = Counter(c.values["name"] for c in records.categories if "name" in c.values)
    double = [name for name, count in counts.items() if count > 1]
    yield from some("error", split, "duplicate-name", "a name of two categories", "names", double, "rename or merge")
    counts = Counter(i.values["file_name"] for i in records.images if "file_name" in i.values)
    double = [name for name, count in counts.items() if count > 1]
    remedy = "merge their records: each copy is learned with a part of the objects only"
    yield from some("warning", split, "duplicate-file", "a file of two images or more", "files", double, remedy)


def _check_references(records: Records) -> Iterator[Finding]:
    """What annotations refer to is there, and there is something to learn from."""
    split = records.split
    for key, section in (("image_id", "images"), ("category_id", "categories")):
        known = {r.values["id"] for r in getattr(records, section) if "id" in r.values}
        lost = [a.label for a in records.annotations if key in a.values and a.values[key] not in known]
        what = f"{key} is not among the {section}"
        yield from some("error", split, f"unknown-{key}", what, "annotations", lost, "add the record or drop these")
    if not records.images:
        path = str(records.annotations_file)
        yield from some("error", split, "no-images", "no image at all", "files", [path], "give another file")
