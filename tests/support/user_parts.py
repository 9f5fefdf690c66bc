"""A user's module: parts that are wrong in one way each, and places for those that a test makes."""

import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2

NUMBER = 3


class OneCell(nn.Module):
    """A detector of one query; `fault` spoils one thing."""

    def __init__(self, config, fault=""):
        super().__init__()
        self.head = nn.Linear(3, config.num_classes + 5)
        self.fault, self.counter = fault, 0

    def forward(self, images, padding_mask):
        found = self.head(images.mean((2, 3)))[:, None]  # (B, 1, C + 1 + 4)
        logits, boxes = found[..., :-4], found[..., -4:]
        outputs = {"pred_logits": logits, "pred_boxes": boxes.sigmoid(), "aux_outputs": []}
        if self.fault == "boxes":
            outputs["pred_boxes"] = boxes.sigmoid() + 1
        if self.fault == "classes":
            outputs["pred_logits"] = logits[..., :-1]
        if self.fault == "aux":
            outputs["aux_outputs"] = [{"pred_logits": logits, "pred_boxes": boxes[..., :3]}]
        if self.fault == "missing":
            del outputs["aux_outputs"]
        return outputs["pred_boxes"] if self.fault == "tensor" else outputs


def no_module(config):
    return "a model"


class Forgetful(torch.optim.SGD):
    """Its momentum is not in the state dict."""

    def state_dict(self):
        return super().state_dict() | {"state": {}}


class Idle(torch.optim.SGD):
    """Changes nothing."""

    def step(self):
        pass


class NoState:
    """Lacks most of an optimiser."""

    def __init__(self, groups):
        self.param_groups = groups

    def step(self):
        pass


class Brightness(v2.Transform):
    """Brightens an image by a number of NumPy's."""

    def forward(self, image, target):
        return (image + np.random.randint(1, 255)).to(torch.uint8), target


def brightness(config):
    return Brightness()


def floats(config):
    return v2.ToDtype(torch.float32, scale=True)
