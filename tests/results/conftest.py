"""What the tests of the read side share."""

import numpy as np
import pytest
from stored import Builder


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A builder of ablations in a store of the tests' own, made once: a new database takes five seconds."""
    return Builder(tmp_path_factory.mktemp("stored"))


@pytest.fixture(scope="session")
def noisy_scenes():
    """A function of a seed: annotations and detections with errors of every type, and all that COCOeval treats apart:
    crowds, areas that are not w * h, images without objects or detections, ids with gaps, a class without objects.
    """

    def make(seed: int, ties: bool = True, crowds: bool = True, num_images: int = 12) -> tuple[dict, list[dict]]:
        rng = np.random.default_rng(seed)
        annotations, found = [], []
        for image in (3 + 7 * np.arange(num_images)).tolist():
            for _ in range(rng.integers(8) if rng.random() < 0.85 else 0):
                box = np.concatenate([rng.uniform(0, 150, 2), rng.uniform(5, 150, 2)])
                one = {"image_id": image, "category_id": 1 + 2 * int(rng.integers(4)), "bbox": box.tolist()}
                area, crowd = box[2] * box[3] * rng.uniform(0.5, 1), int(crowds and rng.random() < 0.15)
                annotations.append({**one, "id": len(annotations) + 1, "area": area, "iscrowd": crowd})
                for _ in range(rng.integers(4)):
                    place = box * rng.uniform(0.85, 1.2, 4)
                    place[:2] += rng.uniform(-60, 60, 2) * (rng.random() < 0.3)
                    label = one["category_id"] if rng.random() < 0.8 else 1 + 2 * int(rng.integers(5))
                    score = round(rng.random(), 1) if ties else rng.random()
                    found.append({**one, "bbox": place.tolist(), "category_id": label, "score": score})
        images = [{"id": 3 + 7 * n, "width": 300, "height": 300} for n in range(num_images)]
        categories = [{"id": 1 + 2 * k, "name": f"class {k}"} for k in range(5)]
        return {"images": images, "categories": categories, "annotations": annotations}, found

    return make
