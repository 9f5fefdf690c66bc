"""The objects of a split as arrays, one row each, and what can be counted about them."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detr.config import ModelConfig, RunConfig
from detr.data.transforms import target_size
from detr.doctor.records import Records


@dataclass(frozen=True)
class Objects:
    """The n annotations whose box is four sound numbers."""

    labels: list[int | str]
    images: np.ndarray  # (n,) row of the image among the records, -1 unknown
    categories: np.ndarray  # (n,) category id, -1 unknown
    boxes: np.ndarray  # (n, 4) xywh in pixels
    sizes: np.ndarray  # (n, 2) width and height of the image, infinite if unknown
    areas: np.ndarray  # (n,) as annotated in px^2, NaN where there is none
    crowd: np.ndarray  # (n,) bool

    @cached_property
    def xyxy(self) -> np.ndarray:
        """(n, 4) corners as annotated."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] + self.boxes[:, :2]], axis=1)

    @cached_property
    def inside(self) -> np.ndarray:
        """(n, 4) corners, clamped to the image."""
        return self.xyxy.clip(0, np.tile(self.sizes, 2))

    @cached_property
    def has_extent(self) -> np.ndarray:
        """(n,) something of the box lies in the image: training keeps it."""
        return np.all(self.inside[:, 2:] > self.inside[:, :2], axis=1)

    @cached_property
    def learned(self) -> np.ndarray:
        """(n,) training learns it."""
        return self.has_extent & ~self.crowd & (self.images >= 0)

    @cached_property
    def filled_areas(self) -> np.ndarray:
        """(n,) areas as evaluation takes them: width * height where there is none."""
        return np.where(np.isnan(self.areas), self.boxes[:, 2:].clip(0).prod(1), self.areas)


def collect(records: Records) -> Objects:
    """Arrays of a split's annotations."""
    rows: dict[int, int] = {}
    for row, image in enumerate(records.images):
        if "id" in image.values:
            rows.setdefault(image.values["id"], row)
    sizes = np.array(
        [(i.values.get("width", np.inf), i.values.get("height", np.inf)) for i in records.images] + [(np.inf, np.inf)]
    )
    sound = [a for a in records.annotations if "bbox" in a.values]
    images = np.array([rows.get(a.values.get("image_id", -1), -1) for a in sound], dtype=np.int64)
    return Objects(
        labels=[a.label for a in sound],
        images=images,
        categories=np.array([a.values.get("category_id", -1) for a in sound], dtype=np.int64),
        boxes=np.array([a.values["bbox"] for a in sound], dtype=np.float64).reshape(-1, 4),
        sizes=sizes[images],
        areas=np.array([a.values.get("area", np.nan) for a in sound], dtype=np.float64),
        crowd=np.array([bool(a.values.get("iscrowd", 0)) for a in sound], dtype=bool),
    )


@dataclass(frozen=True)
class Census:
    """Counts of one split; crowds and boxes without extent are left out."""

    images: int
    empty_images: int  # without an object to learn
    objects: int
    crowds: int
    classes: dict[str, int]  # objects by "name", or by "name (id)" where two categories share it
    strata: tuple[int, int, int]  # objects that are small, medium, large by the area limits
    most_objects: int  # in one image
    sides: tuple[float, float, float]  # 5 %, 50 %, 95 % of sqrt(area of the box) in pixels of the model's input
    below_cell: float  # share of the boxes whose area there is less than a feature cell's


def stride(model: ModelConfig) -> int:
    """Pixels from one feature cell of the backbone to the next."""
    if model.backbone == "small":
        return model.backbone_stride
    return 16 if model.dilation else 32


def sides_at(records: Records, objects: Objects, image_size: int, max_size: int) -> np.ndarray:
    """sqrt(area) of every learned box, in pixels after the resize of validation."""
    scales = np.ones((len(records.images) + 1, 2))
    for row, image in enumerate(records.images):
        width, height = image.values.get("width"), image.values.get("height")
        if width and height:
            resized = target_size(height, width, image_size, max_size)
            scales[row] = resized[1] / width, resized[0] / height
    extents = objects.inside[:, 2:] - objects.inside[:, :2]
    extents = extents[objects.learned] * scales[objects.images[objects.learned]]
    return np.sqrt(extents.prod(1))


def count(records: Records, objects: Objects, config: RunConfig) -> Census:
    """Count a split under a run's settings."""
    learned = objects.learned
    categories = Counter(objects.categories[learned].tolist())
    shared = {name for name, n in Counter(records.names.values()).items() if n > 1}
    per_image = np.bincount(objects.images[learned], minlength=len(records.images))
    areas = objects.filled_areas[learned]
    low, high = config.evaluation.area_limits
    sides = sides_at(records, objects, config.data.image_size, config.data.max_size)
    return Census(
        images=len(records.images),
        empty_images=int((per_image == 0).sum()),
        objects=int(learned.sum()),
        crowds=int(objects.crowd.sum()),
        classes={
            (f"{name} ({id_})" if name in shared else name): categories[id_]
            for id_, name in sorted(records.names.items())
        },
        strata=(int((areas < low).sum()), int(((areas >= low) & (areas <= high)).sum()), int((areas > high).sum())),
        most_objects=int(per_image.max(initial=0)),
        sides=tuple(np.quantile(sides, (0.05, 0.5, 0.95)).round(1).tolist()) if len(sides) else (0.0, 0.0, 0.0),
        below_cell=float((sides < stride(config.model)).mean()) if len(sides) else 0.0,
    )
