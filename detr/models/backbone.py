"""Backbones: torchvision's ResNets with frozen batch norm, and a small network that trains from scratch."""

import urllib.error
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from detr.checkpoint import read_weights
from detr.config import ModelConfig
from detr.errors import InputError
from detr.models.activations import CheckpointedStack
from detr.models.resnet import RESNETS, ResNet


class Backbone(nn.Module):
    """A network from images to feature levels, the finest first.

    num_channels:  of each level
    strides:       pixels per cell of each level
    """

    def __init__(self, body: "ResNet | SmallNetwork") -> None:
        super().__init__()
        self.body = body.to(memory_format=torch.channels_last)  # the convolutions' faster layout, in memory only
        self.num_channels = body.num_channels
        self.strides = body.strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) -> features (B, channels, H / stride, W / stride) of each level."""
        return self.body(images.contiguous(memory_format=torch.channels_last))


def build_backbone(config: ModelConfig, num_levels: int = 1) -> Backbone:
    """Build the backbone that `config` names, with its starting weights.

    num_levels:  feature levels, those of its last stages
    """
    body = SmallNetwork(config, num_levels) if config.backbone == "small" else _resnet(config, num_levels)
    if isinstance(config.pretrained, str):
        _load_local(body, Path(config.pretrained))
    return Backbone(body)


def _resnet(config: ModelConfig, num_levels: int) -> ResNet:
    """Build a ResNet. Of its convolutions those of layer2 to layer4 train, as in the official code."""
    body = ResNet(*RESNETS[config.backbone], config.dilation, num_levels)
    if config.pretrained is True:
        _load(body, _download(config.backbone))
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
    return body


def _download(name: str) -> dict[str, Tensor]:
    """Fetch torchvision's IMAGENET1K_V1 weights of the network, from its local cache if they are there."""
    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded from {weights.url} ({error}). "
            "Fetch that file elsewhere and set model.pretrained=PATH, or train from scratch with model.pretrained=false"
        ) from error


def _load(body: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict of the network; its classifier is left out."""
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    body.load_state_dict(state)


def _load_local(body: nn.Module, path: Path) -> None:
    """Load a state dict of the network from a file."""
    if not path.is_file():
        raise InputError(f"model.pretrained={path}: there is no such file")
    try:
        _load(body, read_weights(path))
    except InputError as error:
        raise InputError(f"model.pretrained: {error}") from None
    except RuntimeError as error:
        raise InputError(f"model.pretrained={path}: not a state dict of this backbone ({error})") from error


class SmallNetwork(CheckpointedStack, nn.Sequential):
    """A stem of stride 2 and residual stages, each halving the resolution and doubling the channels."""

    def __init__(self, config: ModelConfig, num_levels: int = 1) -> None:
        norm = nn.BatchNorm2d if config.backbone_norm == "batch" else _group_norm
        channels = [config.backbone_width * 2**i for i in range({8: 3, 16: 4}[config.backbone_stride])]
        stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False), norm(channels[0]), nn.ReLU()
        )
        stages = [ResidualBlock(a, b, stride=2, norm=norm) for a, b in pairwise(channels)]
        super().__init__(stem, *stages)
        self.num_channels = channels[-num_levels:]
        self.strides = [2 ** (i + 1) for i in range(len(channels))][-num_levels:]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, channels, H / stride, W / stride) of each level."""
        return self.last_levels(x, self, len(self.strides))


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return (self.branch(x) + self.shortcut(x)).relu()
