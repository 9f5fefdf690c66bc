"""Backbones: torchvision's ResNets with frozen batch norm, and a small network that trains from scratch."""

import urllib.error
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from detr.config import ModelConfig
from detr.errors import InputError
from detr.models.resnet import RESNETS, ResNet


class Backbone(nn.Module):
    """A network from images to one feature map of `num_channels` channels."""

    def __init__(self, body: nn.Module, num_channels: int) -> None:
        super().__init__()
        self.body = body.to(memory_format=torch.channels_last)  # the convolutions' faster layout, in memory only
        self.num_channels = num_channels

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> features (B, num_channels, H / stride, W / stride)."""
        return self.body(images.contiguous(memory_format=torch.channels_last))


def build_backbone(config: ModelConfig) -> Backbone:
    """The backbone that `config` names, with its starting weights."""
    body, num_channels = _small(config) if config.backbone == "small" else _resnet(config)
    if isinstance(config.pretrained, str):
        _load_local(body, Path(config.pretrained))
    return Backbone(body, num_channels)


def _resnet(config: ModelConfig) -> tuple[nn.Module, int]:
    """ResNet up to layer4. Of its convolutions those of layer2 to layer4 train, as in the official code."""
    body = ResNet(*RESNETS[config.backbone], dilation=config.dilation)
    if config.pretrained is True:
        _load(body, _download(config.backbone))
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
    return body, body.num_channels


def _download(name: str) -> dict[str, Tensor]:
    """torchvision's IMAGENET1K_V1 weights of the network, from its local cache where they are there."""
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
        _load(body, torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise InputError(f"model.pretrained={path}: not a state dict of this backbone ({error})") from error


def _small(config: ModelConfig) -> tuple[nn.Module, int]:
    """A stem and residual stages, each halving the resolution and doubling the channels."""
    norm = nn.BatchNorm2d if config.backbone_norm == "batch" else _group_norm
    channels = config.backbone_width
    stages: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), norm(channels), nn.ReLU())
    ]
    for _ in range({8: 2, 16: 3}[config.backbone_stride]):
        stages.append(ResidualBlock(channels, 2 * channels, stride=2, norm=norm))
        channels *= 2
    return nn.Sequential(*stages), channels


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(8, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: type[nn.Module]) -> None:
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
