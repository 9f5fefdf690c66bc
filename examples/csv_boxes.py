"""Own data format: one table of boxes a split, as train.csv and val.csv beside folders train/ and val/ of images.

python experiments/run.py data.target=examples.csv_boxes:read_split data.root=/data/mine model=small

file,width,height,class,left,top,right,bottom
a.jpg,640,480,cat,10,20,110,220
b.jpg,640,480,,,,,                  (an image without objects)
"""

import csv
from pathlib import Path
from typing import Any

from detr.config import DataConfig
from detr.errors import InputError


def read_split(config: DataConfig, split: str, delimiter: str = ",") -> tuple[dict[str, Any], Path]:
    """Read the annotations of "train" or "val" as the content of a COCO file; returns also the folder of the images."""
    root = Path(config.root)
    tables = {name: root / f"{name}.csv" for name in ("train", "val")}
    for path in tables.values():
        if not path.is_file():
            raise InputError(f"data.root={root}: there is no {path.name} in it")
    rows = {
        name: list(csv.DictReader(path.read_text().splitlines(), delimiter=delimiter)) for name, path in tables.items()
    }
    # of both splits, so that a class has the same id in each
    classes = sorted({row["class"] for part in rows.values() for row in part if row["class"]})
    sizes = {row["file"]: (int(row["width"]), int(row["height"])) for row in rows[split]}
    image_ids = {name: i for i, name in enumerate(sizes, start=1)}
    annotations: list[dict[str, Any]] = []
    for row in (row for row in rows[split] if row["class"]):
        left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
        box = [left, top, right - left, bottom - top]
        category = classes.index(row["class"]) + 1
        annotations.append(
            {"id": len(annotations) + 1, "image_id": image_ids[row["file"]], "category_id": category, "bbox": box}
        )
    images = [
        {"id": image_ids[name], "file_name": name, "width": width, "height": height}
        for name, (width, height) in sizes.items()
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, root / split
