"""The drawn scenes: the same everywhere, and boxes that are those of the drawn objects."""

import json
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from detr.config import DataConfig
from detr.data import open_split, split_paths
from detr.data.shapes import CLASSES, draw_scene, write_shapes


def small_set(root: Path) -> DataConfig:
    return DataConfig(
        name="shapes",
        root=str(root),
        shapes_image_size=32,
        shapes_num_train=5,
        shapes_num_val=2,
        image_size=32,
        max_size=32,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_written_once_and_the_same_each_time(tmp_path):
    first, second = write_shapes(small_set(tmp_path / "a")), write_shapes(small_set(tmp_path / "b"))
    assert contents(first) == contents(second)
    assert len(contents(first)) == 5 + 2 + 2
    times = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    assert write_shapes(small_set(tmp_path / "a")) == first
    assert {p: p.stat().st_mtime_ns for p in first.rglob("*")} == times


def test_settings_and_splits_differ(tmp_path):
    first = write_shapes(small_set(tmp_path))
    other = write_shapes(replace(small_set(tmp_path), shapes_seed=1))
    assert first != other
    pictures = {content for folder in (first, other) for name, content in contents(folder).items() if "png" in name}
    assert len(pictures) == 14


def _write(root: Path) -> Path:
    return write_shapes(small_set(root))


def test_several_runs_may_write_it_at_once(tmp_path):
    with get_context("fork").Pool(4) as pool:
        roots = pool.map(_write, [tmp_path] * 4, chunksize=1)
    assert len(set(roots)) == 1
    assert [p.name for p in tmp_path.iterdir()] == [roots[0].name]


def test_an_interrupted_writing_leaves_nothing_that_passes_for_complete(tmp_path, monkeypatch):
    import detr.data.shapes as module

    def interrupted(folder, split, count, config):
        (folder / split).mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_split", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_shapes(small_set(tmp_path))
    assert len(open_split(small_set(tmp_path), "train")) == 5


def test_goes_through_the_same_code_as_coco(tmp_path):
    dataset = open_split(small_set(tmp_path), "train")
    assert tuple(dataset.names.values()) == CLASSES
    image, target = dataset[0, 0]
    assert image.shape[0] == 3
    assert len(target["labels"]) >= 1
    assert dataset.findings.degenerate == []


def test_boxes_and_areas_are_consistent_and_every_kind_occurs():
    """At 64 pixels, the limits of conf/data/shapes.yaml part the areas so that APS, APM and APL all mean something."""
    rng = np.random.default_rng(0)
    classes: Counter = Counter()
    sizes: Counter = Counter()
    for _ in range(150):
        pixels, objects = draw_scene(rng, 64)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        assert objects
        for label, (x, y, w, h), area in objects:
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 64
            assert 0 < area <= w * h
            classes[CLASSES[label]] += 1
            sizes["small" if area < 215 else "medium" if area < 470 else "large"] += 1
    for counts, kinds in ((classes, set(CLASSES)), (sizes, {"small", "medium", "large"})):
        assert counts.keys() == kinds
        assert min(counts.values()) > 0.2 * counts.total()


def test_objects_can_be_seen():
    """Inside a box the picture differs from the background more than elsewhere."""
    pixels, objects = draw_scene(np.random.default_rng(3), 96)
    inside = np.zeros((96, 96), dtype=bool)
    for _, (x, y, w, h), _ in objects:
        inside[round(y) : round(y + h), round(x) : round(x + w)] = True
    background = np.median(pixels[~inside], axis=0)
    distance = np.abs(pixels - background).sum(-1)
    assert distance[inside].mean() > 1.5 * distance[~inside].mean()


def test_annotation_file_is_plain_coco(tmp_path):
    annotations, _ = split_paths(small_set(tmp_path), "train")
    content = json.loads(annotations.read_text())
    assert {c["id"] for c in content["categories"]} == {1, 2, 3}
    assert content["annotations"][0].keys() == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
