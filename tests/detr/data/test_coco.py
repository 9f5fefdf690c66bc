"""COCO folders: category ids of every kind, faulty boxes, and files that are not what they should be."""

import json

import pytest
import torch

from detr.data import open_split
from detr.data.coco import load_annotations
from detr.errors import InputError


def labels_of(dataset) -> list[list[int]]:
    return [dataset[0, i][1]["labels"].tolist() for i in range(len(dataset))]


BOX = [6, 4, 30, 20]


@pytest.mark.parametrize(
    ("categories", "labels", "num_classes", "expected"),
    [
        ((1, 2), "contiguous", 2, [0, 1]),
        ((0, 1), "contiguous", 2, [0, 1]),
        ((3, 90), "contiguous", 2, [0, 1]),
        ((7, 5), "contiguous", 2, [1, 0]),  # in order of id, whatever the file's
        ((1, 2), "raw", 3, [1, 2]),
        ((0, 1), "raw", 2, [0, 1]),
        ((3, 90), "raw", 91, [3, 90]),
    ],
)
def test_category_ids_become_labels_and_back(write_coco, coco_config, categories, labels, num_classes, expected):
    root = write_coco([[(categories[0], BOX), (categories[1], BOX)]], categories)
    dataset = open_split(coco_config(root, labels=labels), "train")
    assert dataset.num_classes == num_classes
    assert labels_of(dataset) == [expected]
    assert dataset.category_ids[torch.tensor(expected)].tolist() == list(categories)
    assert dataset.names == {c: f"class {c}" for c in categories}


@pytest.mark.parametrize("box", [[6, 4, 30, 20], [6.0, 4.0, 30.0, 20.0]])
def test_boxes_given_as_integers_or_floats(write_coco, coco_config, box):
    _, target = open_split(coco_config(write_coco([[(1, box)]])), "train")[0, 0]
    torch.testing.assert_close(target["boxes"], torch.tensor([[21 / 60, 14 / 40, 30 / 60, 20 / 40]]))


def test_faulty_boxes_are_clamped_or_removed_and_reported(write_coco, coco_config):
    crowd = {"category_id": 1, "bbox": BOX, "iscrowd": 1}
    root = write_coco(
        [
            [(1, [-10, 30, 30, 30]), (2, BOX)],  # 1 over the border
            [(1, [10, 10, 0, 5]), (1, [70, 5, 10, 10]), (1, [5, 5, -3, 4])],  # 3, 4, 5 without area inside
            [crowd],  # 6
            [],
        ]
    )
    dataset = open_split(coco_config(root), "train")
    assert dataset.findings.clamped == [1]
    assert dataset.findings.degenerate == [3, 4, 5]
    assert dataset.findings.crowd == [6]
    assert labels_of(dataset) == [[0, 1], [], [], []]  # all four images are kept
    assert dataset.boxes[0][0].tolist() == [0, 30, 20, 40]
    summary = dataset.summary()
    for text in ("4 images, 2 boxes", "(image ids 2, 3, 4)", "(annotation ids 6)", "(annotation ids 3, 4, 5)"):
        assert text in summary


def test_image_without_objects_has_empty_targets_of_the_right_shape(write_coco, coco_config):
    for augmentation in ("official", "light", "none"):
        dataset = open_split(coco_config(write_coco([[]], name=augmentation), augmentation=augmentation), "train")
        for epoch in range(6):
            _, target = dataset[epoch, 0]
            assert target["boxes"].shape == (0, 4)
            assert target["labels"].shape == (0,)
            assert target["labels"].dtype == torch.int64


def test_target_names_image_and_original_size(write_coco, coco_config):
    _, target = open_split(coco_config(write_coco([[], [(1, BOX)]]), image_size=20, max_size=30), "val")[0, 1]
    assert target["image_id"] == 2
    assert target["size"].tolist() == [40, 60]


def test_augmentation_depends_on_seed_epoch_and_image_alone(write_coco, coco_config):
    config = coco_config(write_coco([[(1, BOX)], [(1, BOX)]]), augmentation="official")
    dataset, other = open_split(config, "train", seed=1), open_split(config, "train", seed=2)
    first = [dataset[epoch, 0][0] for epoch in range(4)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = [dataset[epoch, 0][0] for epoch in (3, 2, 1, 0)][::-1]
    assert torch.equal(torch.get_rng_state(), state)  # training's own random numbers are left alone
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.sum().item() for image in first}) > 1
    assert any(not torch.equal(a, other[epoch, 0][0]) for epoch, a in enumerate(first))


@pytest.mark.parametrize("augmentation", ["official", "light", "none"])
def test_the_augmented_shape_is_known_without_reading(write_coco, coco_config, augmentation):
    config = coco_config(write_coco([[(1, BOX)], []]), augmentation=augmentation)
    dataset = open_split(config, "train", seed=1)
    keys = [(epoch, index) for epoch in range(12) for index in (0, 1)]
    shapes = [tuple(dataset[key][0].shape[1:]) for key in keys]
    for image in dataset.root.iterdir():
        image.unlink()
    assert [dataset.augmented_shape(key) for key in keys] == shapes
    assert (len(set(shapes)) > 4) == (augmentation != "none")


def test_missing_area_and_iscrowd_are_filled_in(write_coco):
    (record,) = load_annotations(write_coco([[(1, BOX)]]) / "annotations.json")["annotations"]
    assert (record["area"], record["iscrowd"]) == (600, 0)


def change(root, section: str, position: int | None, **values) -> None:
    """Rewrite a part of the annotation file; the value None deletes a key."""
    path = root / "annotations.json"
    content = json.loads(path.read_text())
    record = content if position is None else content[section][position]
    for key, value in values.items():
        record[key] = value
        if value is None:
            del record[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("section", "position", "values", "message"),
    [
        ("", None, {"categories": None}, "lacks the list 'categories'"),
        ("", None, {"images": {}}, "lacks the list 'images'"),
        ("", None, {"images": [], "annotations": []}, "holds no image"),
        ("images", 0, {"width": None}, r"images\[0\] lacks width"),
        ("images", 0, {"height": 0}, "image 1 has the height 0; it must be a positive whole number"),
        ("images", 0, {"width": True}, "image 1 has the width True"),
        ("images", 0, {"id": "1"}, "image 1 has the id 1; it must be a whole number"),
        ("images", 0, {"id": [1]}, r"image \[1\] has the id"),
        ("images", 0, {"file_name": 7}, "image 1 has the file_name 7"),
        ("images", 1, {"id": 1}, "the id in images 1 stands 2 times"),
        ("categories", 0, {"id": 10**12}, "category 1000000000000 has the id"),
        ("categories", 0, {"id": -1}, "category -1 has the id"),
        ("annotations", 0, {"iscrowd": "0"}, "annotation 1 has the iscrowd 0; it must be 0 or 1"),
        ("annotations", 0, {"area": "large"}, "annotation 1 has the area large"),
        ("annotations", 0, {"bbox": [1, 2, 3, 10**400]}, "annotation 1 has the bbox"),
        ("images", 0, {"file_name": "../../secret.png"}, "image 1 leads out of its folder"),
        ("annotations", 0, {"bbox": None}, r"annotations\[0\] lacks bbox"),
        ("annotations", 0, {"bbox": [1, 2, 3]}, r"annotation 1 has the bbox \[1, 2, 3\]"),
        ("annotations", 0, {"bbox": [1, 2, 3, "4"]}, "annotation 1 has the bbox"),
        ("annotations", 0, {"bbox": [1, 2, 3, float("nan")]}, "annotation 1 has the bbox"),
        ("annotations", 0, {"category_id": 9}, "annotation 1 has category 9, which is not in the file"),
        ("annotations", 0, {"image_id": 9}, "annotation 1 belongs to image 9, which is not in the file"),
        ("categories", 0, {"name": None}, r"categories\[0\] lacks name"),
    ],
)
def test_faults_of_the_annotation_file_are_named(write_coco, coco_config, section, position, values, message):
    root = write_coco([[(1, BOX)], []])
    change(root, section, position, **values)
    with pytest.raises(InputError, match=message) as error:
        open_split(coco_config(root), "train")[0, 0]
    assert "annotations.json" in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\x00\x01", "3"])
def test_what_is_not_an_annotation_file_is_named(write_coco, coco_config, content):
    root = write_coco([[]])
    (root / "annotations.json").write_text(content)
    with pytest.raises(InputError, match=r"annotations\.json"):
        open_split(coco_config(root), "train")


def test_missing_folders_and_files_are_named(write_coco, coco_config):
    root = write_coco([[]])
    for changes, message in (
        ({"root": str(root / "no")}, "data.root=.*no: there is no such folder"),
        ({"train_images": "no"}, "data.train_images=.*no: there is no such folder"),
        ({"train_annotations": "no.json"}, r"no\.json: there is no such"),
    ):
        with pytest.raises(InputError, match=message):
            open_split(coco_config(root, **changes), "train")


def test_an_image_that_links_to_itself_is_named(write_coco, coco_config):
    root = write_coco([[(1, BOX)]])
    data = open_split(coco_config(root), "train")
    path = data.path(0)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(InputError, match=path.name):
        data[0, 0]


def test_a_missing_image_is_handed_through_the_batch(write_coco, coco_config):
    """A worker process would bury the error in its own traceback."""
    root = write_coco([[], []])
    (root / "images" / "2.png").unlink()
    dataset = open_split(coco_config(root), "train")
    found = dataset.__getitems__([(0, 0), (0, 1)])
    assert isinstance(found, InputError)
    assert "2.png" in str(found)
    with pytest.raises(InputError, match=r"2\.png"):
        list(dataset.verify_images())
