"""Reading, augmenting and batching photographs against the same with Pillow, as the official code does it; and what
batches of mixed sizes lose to padding.

    .venv/bin/python -m benchmarks.input_pipeline

JPEG files of 640 x 480 and the official augmentation, in batches of 2, on one thread as in a data worker. Both draw the
same random numbers, and their pixels must not differ by more than 2/255 on average.
"""

import argparse
import json
import statistics
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.config import DataConfig
from detr.data import CocoDetection
from detr.data.batch import Batch, collate
from detr.data.sampler import GroupingSampler, StreamSampler
from detr.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize, target_size
from detr.seeds import derived_seed

IMAGES, BATCH, OBJECTS = 32, 2, 7
PEER = "Pillow's decoder and resizing, torchvision's functions on its images"
SCALES = list(range(480, 801, 32))


def write_photographs(root: Path) -> CocoDetection:
    """A data set of photograph-like JPEG files, of 50 to 100 kB each."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    images, annotations = [], []
    for i in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480), Image.BICUBIC)
        fine = np.asarray(coarse, dtype=np.float32) + rng.normal(0, 6, (480, 640, 1))
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(root / f"images/{i}.jpg", quality=90)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480})
        for x, y in rng.integers(0, (500, 400), (OBJECTS, 2)).tolist():
            box = {"bbox": [x, y, 100, 60], "iscrowd": 0, "area": 6000}
            annotations.append({"id": len(annotations), "image_id": i, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    return CocoDetection(root / "annotations.json", root / "images", DataConfig(), train=True)


def read_with_pillow(dataset: CocoDetection, index: int) -> Image.Image:
    """The picture in RGB."""
    with Image.open(dataset.path(index)) as picture:
        return picture.convert("RGB")


def augment_with_pillow(picture: Image.Image, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The official augmentation of a picture and its boxes (n, 4) xyxy in pixels; draws from torch in our order."""
    if torch.rand(1) < 0.5:
        picture = TF.hflip(picture)
        boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([picture.width, 0] * 2)
    if int(torch.multinomial(torch.tensor([0.5, 0.5]), 1)) == 1:
        picture, boxes = resize(picture, boxes, [400, 500, 600], None)
        width, height = (int(torch.randint(384, min(600, side) + 1, ())) for side in picture.size)
        top = int(torch.randint(picture.height - height + 1, ()))
        left = int(torch.randint(picture.width - width + 1, ()))
        picture = TF.crop(picture, top, left, height, width)
        boxes = (boxes - torch.tensor([left, top] * 2)).clamp(min=0).minimum(torch.tensor([width, height] * 2))
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    picture, boxes = resize(picture, boxes, SCALES, 1333)
    image = TF.normalize(TF.to_tensor(picture), IMAGENET_MEAN, IMAGENET_STD)
    low, high = boxes.split(2, dim=1)
    return image, torch.cat([(low + high) / 2, high - low], dim=1) / torch.tensor(picture.size * 2)


def resize(picture: Image.Image, boxes: Tensor, sizes: list[int], limit: int | None) -> tuple[Image.Image, Tensor]:
    """Bring the shorter side to one of the sizes."""
    size = sizes[int(torch.randint(len(sizes), ()))]
    height, width = target_size(picture.height, picture.width, size, limit)
    ratio = torch.tensor([width / picture.width, height / picture.height] * 2)
    return TF.resize(picture, [height, width]), boxes * ratio


def peer_batch(dataset: CocoDetection, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Images, mask and boxes, as `collate` gives them."""
    samples = []
    for epoch, index in keys:
        torch.manual_seed(derived_seed(dataset.seed, epoch, index))
        samples.append(augment_with_pillow(read_with_pillow(dataset, index), dataset.boxes[index]))
    height, width = (max(image.shape[i] for image, _ in samples) for i in (1, 2))
    images, mask = torch.zeros(len(keys), 3, height, width), torch.ones(len(keys), height, width, dtype=torch.bool)
    for i, (image, _) in enumerate(samples):
        images[i, :, : image.shape[1], : image.shape[2]].copy_(image)
        mask[i, : image.shape[1], : image.shape[2]] = False
    return images, mask, [boxes for _, boxes in samples]


def our_batch(dataset: CocoDetection, keys: list[tuple[int, int]]) -> Batch:
    """The batch as the model takes it."""
    batch = collate(dataset.__getitems__(keys))
    return batch._replace(images=normalize(batch.images, batch.padding_mask))


def difference(dataset: CocoDetection, keys: list[tuple[int, int]]) -> float:
    """Mean absolute difference of the pixels in units of 1/255; all else must be the same."""
    ours, (images, mask, boxes) = our_batch(dataset, keys), peer_batch(dataset, keys)
    torch.testing.assert_close(ours.padding_mask, mask)
    for target, expected in zip(ours.targets, boxes, strict=True):
        torch.testing.assert_close(target["boxes"], expected, atol=2e-3, rtol=0)
    pixels = (ours.images - images).abs() * torch.tensor(IMAGENET_STD)[:, None, None] * 255
    return float(pixels.movedim(1, -1)[~mask].mean())


def consume(batches: Iterable[object]) -> None:
    """Take one after the other and let it go, as a training lets go its normalised batches and a data worker what it
    has handed over: the next one finds its memory.
    """
    deque(batches, maxlen=0)


def padding(dataset: CocoDetection, sampler: StreamSampler) -> float:
    """Share of the pixels of its batches that are padding."""
    used = padded = 0
    for keys in sampler:
        shapes = [dataset.augmented_shape(key) for key in keys]
        height, width = (max(sides) for sides in zip(*shapes, strict=True))
        used += sum(h * w for h, w in shapes)
        padded += len(keys) * height * width
    return 1 - used / padded


def mixed_sizes(root: Path) -> CocoDetection:
    """Annotations alone, of images in the sizes that are frequent in COCO, in about its shares."""
    frequent = {(640, 480): 38, (480, 640): 13, (640, 427): 16, (640, 426): 8, (427, 640): 6, (500, 375): 6,
                (426, 640): 4, (375, 500): 3, (640, 360): 3, (500, 333): 2, (612, 612): 1}  # fmt: skip
    sizes = np.random.default_rng(0).choice(
        list(frequent), size=2000, p=np.array(list(frequent.values())) / sum(frequent.values())
    )
    images = [{"id": i, "file_name": "-", "width": w, "height": h} for i, (w, h) in enumerate(sizes.tolist())]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (root / "mixed.json").write_text(json.dumps(content))
    return CocoDetection(root / "mixed.json", root, DataConfig(), train=True)


def entries(repetitions: int = 8) -> Iterator[Entry]:
    """Images a second against the peer; then the padding that grouping leaves of a random order's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        dataset, mixed = write_photographs(Path(name)), mixed_sizes(Path(name))
        batches = [[(0, i + j) for j in range(BATCH)] for i in range(0, IMAGES, BATCH)]
        apart = statistics.mean(difference(dataset, keys) for keys in batches)
        assert apart < 2, f"the pixels differ by {apart:.2f}/255"
        works = {
            "ours": lambda: consume(our_batch(dataset, keys) for keys in batches),
            "ours in the data worker": lambda: consume(collate(dataset.__getitems__(keys)) for keys in batches),
            PEER: lambda: consume(peer_batch(dataset, keys) for keys in batches),
        }
        seconds = interleave(works, repetitions)
    torch.set_num_threads(threads)
    work = f"JPEG of 640x480, official augmentation, batches of {BATCH}, one thread"
    for key in list(works)[:2]:
        ratio, spread = ratio_and_spread(seconds[key], seconds[PEER])
        figures = {f"{name} (images/s)": IMAGES / statistics.median(seconds[name]) for name in (key, PEER)}
        what = "input pipeline" + (", normalised batch" if key == "ours" else ", as the data worker hands it over")
        yield Entry(what, PEER, work, ratio, spread, "1.8 x", figures | {"pixels differ by (1/255)": apart})
    for batch_size, accumulate in ((2, 32), (5, 12)):
        arguments = (len(mixed), batch_size, accumulate, 0, 0, 1920 // (batch_size * accumulate))
        waste = padding(mixed, StreamSampler(*arguments))
        left = padding(mixed, GroupingSampler(mixed.augmented_shape, *arguments))
        work = f"{batch_size} x {accumulate} images a step, COCO's sizes, official augmentation"
        figures = {"grouped": left, "random": waste}
        yield Entry("padding with train.grouping=size, share", "random batches", work, left / waste, 0.0, "below 0.5",
                    figures)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=8)
    show(entries(parser.parse_args().repetitions))
