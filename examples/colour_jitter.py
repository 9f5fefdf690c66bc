"""Own augmentation: colours before the geometry of data.augmentation.

python experiments/run.py data.transform=examples.colour_jitter:colour_jitter data.augmentation=light
"""

from torchvision.transforms import v2

from detr.config import DataConfig
from detr.data.transforms import augmentation


def colour_jitter(config: DataConfig) -> v2.Transform:
    """Build a transform of a uint8 image and its target: boxes (n, 4) xyxy in pixels, and labels (n,).

    It decides on the size as well. All draws come from torch, which is seeded for every sample.
    """
    return v2.Compose([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3), augmentation(config)])
