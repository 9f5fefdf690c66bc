"""The augmentation: sizes as the official code's, boxes that stay on their objects, extreme images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import functional as TF

from detr.config import DataConfig
from detr.data.batch import pad_images
from detr.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandomSizeCrop,
    ResizeShortestSide,
    build_transform,
    normalize,
    target_size,
)

AUGMENTATIONS = ["official", "light", "none"]


def sample(height: int, width: int, boxes: list[list[float]] | None = None) -> tuple[torch.Tensor, dict]:
    image = tv_tensors.Image(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
    boxes = torch.tensor(boxes or [], dtype=torch.float32).reshape(-1, 4)
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
    }
    return image, target


def official_size(width: int, height: int, size: int, max_size: int | None) -> tuple[int, int]:
    """datasets/transforms.py: get_size_with_aspect_ratio, literally."""
    w, h = width, height
    if max_size is not None:
        min_original_size, max_original_size = float(min((w, h))), float(max((w, h)))
        if max_original_size / min_original_size * size > max_size:
            size = round(max_size * min_original_size / max_original_size)
    if (w <= h and w == size) or (h <= w and h == size):
        return (h, w)
    if w < h:
        return (int(size * h / w), size)
    return (size, int(size * w / h))


@given(
    st.integers(20, 3000), st.integers(20, 3000), st.sampled_from([400, 480, 512, 800]), st.sampled_from([1333, None])
)
def test_sizes_are_the_official_ones(height, width, size, max_size):
    """But for its rounding, which lets the longer side of long images pass the limit by a few pixels."""
    expected, found = official_size(width, height, size, max_size), target_size(height, width, size, max_size)
    assert found == tuple(min(side, max_size or side) for side in expected)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1066)),
        (640, 480, (1066, 800)),
        (500, 500, (800, 800)),
        (400, 1000, (533, 1332)),
        (1, 9999, (1, 1333)),
    ],
)
def test_validation_size(height, width, expected):
    image, _ = build_transform(DataConfig(), train=False)(*sample(height, width))
    assert image.shape == (3, *expected)


def test_boxes_in_units_of_the_resized_image():
    image, target = sample(40, 60, [[6, 4, 30, 20]])
    image, target = build_transform(DataConfig(image_size=80, max_size=120), train=False)(image, target)
    assert image.shape == (3, 80, 120) and image.dtype == torch.uint8
    torch.testing.assert_close(target["boxes"], torch.tensor([[18 / 60, 12 / 40, 24 / 60, 16 / 40]]))
    assert type(target["boxes"]) is torch.Tensor


def test_normalisation_is_torchvisions_with_padding_at_zero():
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((9, 14), (12, 7), (12, 14))]
    padded, mask = pad_images(images)
    found = normalize(padded, mask)
    for result, image in zip(found, images, strict=True):
        expected = TF.normalize(image.float() / 255, IMAGENET_MEAN, IMAGENET_STD)
        _, height, width = image.shape
        torch.testing.assert_close(result[:, :height, :width], expected, rtol=0, atol=1e-6)
    assert (found.movedim(1, -1)[mask] == 0).all() and mask.any()
    assert found.is_contiguous(memory_format=torch.channels_last)  # as the backbone has it


def test_official_training_sizes():
    """Shorter side from 480 to 800 in steps of 32 unless the longer one reaches 1333; both branches occur."""
    transform = build_transform(DataConfig(), train=True)
    shapes = {tuple(transform(*sample(48, 64))[0].shape[1:]) for _ in range(120)}
    shorter, longer = {min(s) for s in shapes if max(s) < 1333}, {max(s) for s in shapes}
    assert shorter <= set(range(480, 801, 32))
    assert len(shorter) == 11
    assert max(longer) <= 1333
    assert len({round(max(s) / min(s), 1) for s in shapes}) > 3  # crops change the proportions, resizing alone does not


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_boxes_stay_on_their_object(augmentation):
    """A white rectangle on black: its box, wherever the augmentation puts it, is where white is."""
    image, target = sample(64, 96, [[24, 16, 72, 48]])
    image[:] = 0
    image[:, 16:48, 24:72] = 255
    transform = build_transform(DataConfig(image_size=64, max_size=128, augmentation=augmentation), train=True)
    seen = 0
    for _ in range(40):
        out, found = transform(image, target)
        white = out[0] > 123
        if not len(found["boxes"]):
            continue
        seen += 1
        rows, columns = white.any(1).nonzero().flatten(), white.any(0).nonzero().flatten()
        expected = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        (cx, cy, w, h), (height, width) = found["boxes"][0].tolist(), out.shape[1:]
        corners = torch.tensor(
            [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        )
        assert (corners - expected).abs().max() <= 2
    assert seen > 30


def test_flip_happens_half_of_the_time():
    image, target = sample(32, 64, [[0, 0, 16, 16]])
    transform = build_transform(DataConfig(image_size=32, max_size=64, augmentation="official"), train=True)
    left = [transform(image, target)[1]["boxes"] for _ in range(300)]
    flipped = [b[0, 0] > 0.5 for b in left if len(b)]
    assert 0.35 < sum(flipped) / len(flipped) < 0.65


def test_crop_drops_boxes_outside_with_their_labels():
    image, target = sample(50, 100, [[0, 0, 10, 10], [40, 10, 60, 40], [90, 40, 100, 50]])
    crop = RandomSizeCrop(30, 40)
    sizes, kept = set(), set()
    for _ in range(200):
        out, found = crop(image, target)
        sizes.add(tuple(out.shape[1:]))
        kept.add(tuple(found["labels"].tolist()))
        height, width = out.shape[1:]
        boxes = found["boxes"]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert {s[0] for s in sizes} == set(range(30, 41)) == {s[1] for s in sizes}
    assert any(s[0] != s[1] for s in sizes)  # width and height are drawn apart
    assert {(), (1,)} <= kept


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1), (2, 5000)])
def test_extreme_images_come_through(augmentation, height, width):
    """The official code would enlarge 1 x 5000 pixels to 600 x 3,000,000 before it crops."""
    config = DataConfig(augmentation=augmentation, image_size=64, max_size=106)
    transform = build_transform(config, train=True)
    for _ in range(12):
        image, target = transform(*sample(height, width, [[0, 0, width, height]]))
        assert torch.isfinite(image).all()
        assert max(image.shape[1:]) <= 106
        assert ((target["boxes"] >= 0) & (target["boxes"] <= 1 + 1e-6)).all()


def test_intermediate_sizes_are_bounded(monkeypatch):
    asked = []
    original = ResizeShortestSide.make_params
    monkeypatch.setattr(
        ResizeShortestSide,
        "make_params",
        lambda self, x: asked.append(original(self, x)["size"]) or {"size": asked[-1]},
    )
    transform = build_transform(DataConfig(image_size=64, max_size=106), train=True)
    for _ in range(20):
        transform(*sample(1, 3000))
    assert max(max(size) for size in asked) == 16 * 64
