"""Folders in COCO format as data sets: annotations read and checked once, images decoded on demand."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from detr.config import DataConfig
from detr.data.image import read_image
from detr.data.transforms import build_transform
from detr.errors import InputError
from detr.seeds import derived_seed


def _is_id(x: object) -> bool:
    return type(x) is int and 0 <= x < 2**53  # what JSON readers of all languages keep exactly


def _is_number(x: object) -> bool:
    return isinstance(x, int | float) and type(x) is not bool and abs(x) < 1e9  # NaN compares False


def _is_file_name(x: object) -> bool:
    return isinstance(x, str) and bool(x) and "\0" not in x


# section -> key -> (what holds for its values, in words)
FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {
        "id": (_is_id, "a whole number from 0 on"),
        "file_name": (_is_file_name, "the name of a file"),
        "width": (lambda x: type(x) is int and 0 < x < 1e6, "a positive whole number of pixels"),
        "height": (lambda x: type(x) is int and 0 < x < 1e6, "a positive whole number of pixels"),
    },
    "annotations": {
        "id": (_is_id, "a whole number from 0 on"),
        "image_id": (_is_id, "the id of an image"),
        "category_id": (_is_id, "the id of a category"),
        "bbox": (
            lambda x: isinstance(x, list) and len(x) == 4 and all(map(_is_number, x)),
            "[x, y, width, height] in pixels",
        ),
    },
    "categories": {
        "id": (lambda x: _is_id(x) and x < 100_000, "a whole number from 0 to 99999"),
        "name": (lambda x: isinstance(x, str) and bool(x), "a text"),
    },
}
# keys that may be missing
OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "iscrowd": (lambda x: x in (0, 1) and not isinstance(x, float), "0 or 1"),
    "area": (lambda x: _is_number(x) and x >= 0, "a number of square pixels from 0 on"),
}


def read_split(config: DataConfig, split: str) -> tuple[Path, Path]:
    """Find the annotation file and image folder of "train" or "val"; InputError when one is missing."""
    root = Path(config.root)
    if not root.is_dir():
        raise InputError(f"data.root={config.root}: there is no such folder; give the folder of a COCO-format data set")
    annotations = root / getattr(config, f"{split}_annotations")
    images = root / getattr(config, f"{split}_images")
    if not annotations.is_file():
        raise InputError(f"data.{split}_annotations={annotations}: there is no such file")
    if not images.is_dir():
        raise InputError(f"data.{split}_images={images}: there is no such folder")
    return annotations, images


def load_annotations(path: Path | str) -> dict[str, Any]:
    """Read and check a COCO annotation file; missing `iscrowd` and `area` are filled in with 0 and width * height.

    InputError names the file, the first faulty record and the remedy.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such annotation file; check data.root and data.*_annotations") from None
    except (ValueError, RecursionError, OSError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a JSON object with {', '.join(FIELDS)}")
    for section, fields in FIELDS.items():
        if not isinstance(content.get(section), list):
            raise InputError(f"{path}: lacks the list {section!r}; COCO format needs {', '.join(FIELDS)}")
        for position, record in enumerate(content[section]):
            missing = [key for key in fields if not isinstance(record, dict) or key not in record]
            if missing:
                raise InputError(f"{path}: {section}[{position}] lacks {', '.join(missing)}: {str(record)[:200]}")
            _check_values(path, section, record, fields)
    for record in content["annotations"]:
        _check_values(path, "annotations", record, {key: OPTIONAL[key] for key in OPTIONAL if key in record})
        record.setdefault("iscrowd", 0)
        record.setdefault("area", float(max(record["bbox"][2], 0) * max(record["bbox"][3], 0)))
    _check_references(path, content)
    return content


def _check_values(path: Path, section: str, record: dict[str, Any], fields: dict[str, tuple]) -> None:
    for key, (holds, meaning) in fields.items():
        if not holds(record[key]):
            name = f"{section.removesuffix('s').replace('categorie', 'category')} {str(record['id'])[:50]}"
            raise InputError(f"{path}: {name} has the {key} {str(record[key])[:100]}; it must be {meaning}")


def _check_references(path: Path, content: dict[str, Any]) -> None:
    """Ids and class names are unique, and what annotations refer to is there."""
    ids = {section: Counter(record["id"] for record in content[section]) for section in FIELDS}
    names = Counter(record["name"] for record in content["categories"])
    for what, counts in [*((f"id in {section}", counts) for section, counts in ids.items()), ("category name", names)]:
        double = next((key for key, count in counts.items() if count > 1), None)
        if double is not None:
            raise InputError(f"{path}: the {what} {double!r} stands {counts[double]} times; it must be unique")
    for record in content["annotations"]:
        name = f"{path}: annotation {record['id']}"
        if record["image_id"] not in ids["images"]:
            raise InputError(f"{name} belongs to image {record['image_id']}, which is not in the file")
        if record["category_id"] not in ids["categories"]:
            raise InputError(f"{name} has category {record['category_id']}, which is not in the file")


@dataclass
class Findings:
    """Boxes of a file that were left out or changed, by annotation id."""

    crowd: list[int] = field(default_factory=list)  # left out of training, ignored by COCOeval
    degenerate: list[int] = field(default_factory=list)  # no area inside the image: removed
    clamped: list[int] = field(default_factory=list)  # reached over the border


class CocoDetection(Dataset):
    """Images with the boxes to learn.

    A key is (epoch, index). Sample: image (3, h, w), and target with image_id, boxes (n, 4), labels (n,), size, the
    original (height, width), and unreadable. Augmentation depends on (seed, epoch, index) alone: workers and resumes do
    not change it. In training an image that cannot be read is replaced by the next one that can, up to
    `quarantine_limit` in a row; `unreadable` says which and why. In validation it is an InputError.
    """

    def __init__(self, annotations: Path, images: Path, config: DataConfig, train: bool, seed: int = 0) -> None:
        content = load_annotations(annotations)
        self.annotations, self.root, self.seed = annotations, images, seed
        self.transform = build_transform(config, train)
        self.names = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
        if config.labels == "raw":
            self.category_ids = torch.arange(max(self.names, default=0) + 1)  # label -> category id
        else:
            self.category_ids = torch.tensor(list(self.names), dtype=torch.int64)
        self.findings = Findings()
        self.images = sorted(content["images"], key=lambda image: image["id"])
        if not self.images:
            raise InputError(f"{annotations}: holds no image")
        self.quarantine_limit = int(config.quarantine_share * len(self.images)) if train else 0
        self.boxes, self.labels = self._objects(content)

    def _objects(self, content: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Sort by image the boxes (n, 4), xyxy in pixels, clamped to the image, and the labels (n,)."""
        by_image: dict[int, list[dict]] = {image["id"]: [] for image in self.images}
        label = {int(category): i for i, category in enumerate(self.category_ids)}
        for record in content["annotations"]:
            if record["iscrowd"]:
                self.findings.crowd.append(record["id"])
            else:
                by_image[record["image_id"]].append(record)
        boxes, labels = [], []
        for image in self.images:
            records = by_image[image["id"]]
            raw = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
            raw[:, 2:] += raw[:, :2]
            inside = raw.clip(0, [image["width"], image["height"]] * 2)
            keep = np.all(inside[:, 2:] > inside[:, :2], axis=1)
            over = keep & np.any(np.abs(inside - raw) > 1e-3, axis=1)
            self.findings.degenerate += [r["id"] for r, kept in zip(records, keep, strict=True) if not kept]
            self.findings.clamped += [r["id"] for r, is_over in zip(records, over, strict=True) if is_over]
            boxes.append(torch.from_numpy(inside[keep].astype(np.float32)))
            labels.append(
                torch.tensor([label[r["category_id"]] for r, k in zip(records, keep, strict=True) if k]).long()
            )
        return boxes, labels

    @property
    def num_classes(self) -> int:
        """Number of labels, without no-object."""
        return len(self.category_ids)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, dict[str, Any]]:
        image, index, unreadable = self._read(key[1])
        record = self.images[index]
        image, target = self._augment(key, image, index)
        size = torch.tensor([record["height"], record["width"]])
        about = {"image_id": record["id"], "size": size, "unreadable": unreadable}
        return image.as_subclass(Tensor), {**target, **about}

    def _augment(self, key: tuple[int, int], image: Tensor, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Transform the image with this index by the key's draws; returns it and its target."""
        target = {
            "boxes": tv_tensors.BoundingBoxes(self.boxes[index], format="XYXY", canvas_size=image.shape[-2:]),
            "labels": self.labels[index],
        }
        with torch.random.fork_rng(devices=[]):
            # the CPU generator alone: torch.manual_seed also queues a call for every accelerator, each time
            torch.default_generator.manual_seed(derived_seed(self.seed, *key))
            return self.transform(tv_tensors.Image(image), target)

    def augmented_shape(self, key: tuple[int, int]) -> tuple[int, int]:
        """Compute (height, width) of the sample's image from the same draws, without reading the file: about 2 ms."""
        record = self.images[key[1]]
        unread = torch.empty(3, record["height"], record["width"], dtype=torch.uint8, device="meta")
        height, width = self._augment(key, unread, key[1])[0].shape[-2:]
        return height, width

    def _read(self, index: int) -> tuple[Tensor, int, dict[int, str]]:
        """Read this image, or the next that can be; returns also its index, and id -> fault of those passed over."""
        unreadable: dict[int, str] = {}
        while True:
            path, record = self.path(index), self.images[index]
            try:
                return read_image(path, (record["height"], record["width"])), index, unreadable
            except InputError as error:
                unreadable[record["id"]] = str(error)
                if len(unreadable) > self.quarantine_limit:
                    raise
                index = (index + 1) % len(self)

    def __getitems__(self, keys: list[tuple[int, int]]) -> "list[tuple[Tensor, dict[str, Any]]] | InputError":
        """Load a batch; a fault of an image is handed on, since a worker process would bury it in its own traceback."""
        try:
            return [self[key] for key in keys]
        except InputError as error:
            return error

    def path(self, index: int) -> Path:
        """Find the file of an image; InputError when its name leads out of the image folder."""
        name = self.images[index]["file_name"]
        path = self.root / name
        real = Path(os.path.realpath(path))  # unlike Path.resolve it leaves a circle of links to who opens the file
        if not real.is_relative_to(self.root.resolve()):
            raise InputError(f"{self.annotations}: image {self.images[index]['id']} leads out of its folder: {name!r}")
        return path

    def verify_images(self) -> Iterator[int]:
        """Decode every image once and yield how many are done; InputError on the first that cannot be used."""

        def verify(index: int) -> None:
            record = self.images[index]
            read_image(self.path(index), (record["height"], record["width"]))

        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(verify, range(len(self))), start=1):
                yield done

    def files_fingerprint(self) -> str:
        """Hash the annotation file, and the names, sizes and dates of the image files."""
        digest = hashlib.sha256(self.annotations.read_bytes())
        for entry in sorted(os.scandir(self.root), key=lambda entry: entry.name):
            stat = entry.stat()
            digest.update(f"{entry.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]

    def counts(self, index: int) -> dict[str, Tensor]:
        """Give the part of an image's target that the losses' denominators need, without reading the image."""
        return {"labels": self.labels[index]}

    def summary(self) -> str:
        """Summarise the set, one line a finding, ids included."""
        sizes = [len(labels) for labels in self.labels]
        lines = [f"{self.annotations}: {len(self)} images, {sum(sizes)} boxes, {len(self.names)} classes"]
        notes = {
            "without objects, kept": [i["id"] for i, n in zip(self.images, sizes, strict=True) if n == 0],
            "crowd boxes, left out of training and ignored in evaluation": self.findings.crowd,
            "boxes without area, removed from training": self.findings.degenerate,
            "boxes over the border, clamped": self.findings.clamped,
        }
        for note, ids in notes.items():
            if ids:
                shown = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
                kind = "image ids" if note.startswith("without") else "annotation ids"
                lines.append(f"  {len(ids)} {'images ' if kind == 'image ids' else ''}{note} ({kind} {shown})")
        return "\n".join(lines)
