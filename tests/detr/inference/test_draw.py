"""Boxes appear where they are, on pictures of any shape."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from detr.data.coco import CocoDetection
from detr.inference.draw import MAX_ENLARGED_SIDE, MIN_SIDE, PALETTE, TILE_SIDE, colour, draw_boxes, draw_samples


def changed(picture, blank):
    """Rows and columns of the pixels that differ."""
    return (picture != blank).any(0).nonzero().T.tolist()


def blank(height=300, width=400):
    return torch.full((3, height, width), 90, dtype=torch.uint8)


def test_pixels_change_along_the_box_and_nowhere_else():
    picture = draw_boxes(blank(), torch.tensor([[100.0, 150.0, 200.0, 250.0]]), ["cat 0.90"], [PALETTE[0]])
    assert picture.shape == (3, 300, 400)
    rows, columns = changed(picture, blank())
    assert min(columns) >= 100 and max(columns) <= 200
    assert 130 <= min(rows) < 150 and max(rows) == 250  # the caption stands above
    paint = torch.tensor(ImageColor.getrgb(PALETTE[0]), dtype=torch.uint8)
    for row, column in ((200, 100), (200, 200), (250, 150)):
        assert torch.equal(picture[:, row, column], paint)
    assert torch.equal(picture[:, 200, 150], blank()[:, 200, 150])  # the inside stays visible


def test_inputs_stay_as_they_are():
    image, boxes = blank(60, 60), torch.tensor([[10.0, 10.0, 10.0, 30.0]])
    before = boxes.clone()
    draw_boxes(image, boxes, ["a"], [PALETTE[0]])
    assert torch.equal(image, blank(60, 60))
    assert torch.equal(boxes, before)


def test_no_boxes():
    assert torch.equal(draw_boxes(blank(), torch.zeros(0, 4), [], []), blank())


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 20, 20),
        (390, 290, 500, 500),
        (-10, -10, 500, 400),
        (500, 500, 600, 600),
        (399, 299, 399, 299),
        (7, 7, 7, 7),
    ],
)
def test_boxes_over_the_border_and_without_extent(box):
    picture = draw_boxes(blank(), torch.tensor([box], dtype=torch.float32), ["a long caption 0.50"], [PALETTE[1]])
    assert picture.shape == (3, 300, 400)
    assert changed(picture, blank())[0]


def test_a_caption_at_the_upper_border_stays_inside():
    picture = draw_boxes(blank(), torch.tensor([[100.0, 0.0, 200.0, 100.0]]), ["cat"], [PALETTE[0]])
    rows, _ = changed(picture[:, 3:40, 104:130], blank()[:, 3:40, 104:130])
    assert rows


def test_integer_boxes_and_foreign_letters():
    draw_boxes(blank(), torch.tensor([[10, 20, 60, 90]]), ["猫 Ünïcode [bold] 0.5"], [PALETTE[2]])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (MIN_SIDE, MIN_SIDE)),
        ((64, 128), (MIN_SIDE, 2 * MIN_SIDE)),
        ((480, 640), (480, 640)),
        ((1, 1000), (2, MAX_ENLARGED_SIDE)),
        ((3000, 1), (3000, 1)),
        ((1, 1), (MIN_SIDE, MIN_SIDE)),
    ],
)
def test_small_pictures_are_enlarged_within_reason(size, expected):
    picture = draw_boxes(blank(*size), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["a"], [PALETTE[0]])
    assert tuple(picture.shape[1:]) == expected


def test_large_pictures_are_reduced_when_asked():
    assert max(draw_boxes(blank(1000, 4000), torch.zeros(0, 4), [], [], max_side=TILE_SIDE).shape) == TILE_SIDE


def test_colours_repeat():
    assert colour(0) == colour(len(PALETTE))
    assert len({colour(i) for i in range(len(PALETTE))}) == len(PALETTE)


def test_samples_show_truth_and_detections_side_by_side(write_coco, coco_config, tmp_path):
    root = write_coco([[(2, [10, 10, 20, 15])], []])
    dataset = CocoDetection(root / "annotations.json", root / "images", coco_config(root), train=False)
    found = [
        {"image_id": 2, "category_id": 1, "bbox": [5, 5, 30, 20], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 60, 40], "score": 0.1},
        {"image_id": 2, "category_id": 77, "bbox": [0, 0, 9, 9], "score": 0.8},  # raw labels have gaps
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    draw_samples(dataset, tmp_path / "found.json", tmp_path / "samples.png", threshold=0.5)
    grid = np.asarray(Image.open(tmp_path / "samples.png")).astype(int)
    tile = grid.shape[1] // 4
    truth_1, found_1, truth_2, found_2 = (grid[8:-8, i * tile + 8 : (i + 1) * tile - 8] for i in range(4))
    assert (truth_1 != found_1).any()  # an object, and no detection
    assert (truth_2 != found_2).any()  # no object, and two detections
