"""torchvision's ResNets whose frozen batch norms are folded into the convolutions before them.

A frozen norm is a constant affine map of each channel, so convolution and norm are one convolution with scaled weights
and a bias: the same function and, since the scaling is part of the graph, the same gradient, without a pass over every
feature map. Modules, and names and shapes of the state dict, are torchvision's.
"""

from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from detr.models.activations import CheckpointedStack


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """norm(conv(x)) for a convolution without bias: (B, inputs, H, W) -> (B, outputs, h, w).

    The convolution is called as a module, so that its hooks run.
    """
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return functional_call(conv, {"weight": weight, "bias": bias}, x)


class BasicBlock(resnet.BasicBlock):
    """Two 3x3 convolutions with a shortcut (ResNet-18 and 34)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out = conv_norm(x, self.conv1, self.bn1).relu()
        out = conv_norm(out, self.conv2, self.bn2)
        return (out + _shortcut(self, x)).relu_()


class Bottleneck(resnet.Bottleneck):
    """1x1, 3x3 and 1x1 convolutions with a shortcut (ResNet-50 and 101)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out = conv_norm(x, self.conv1, self.bn1).relu()
        out = conv_norm(out, self.conv2, self.bn2).relu()
        out = conv_norm(out, self.conv3, self.bn3)
        return (out + _shortcut(self, x)).relu_()


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    return x if block.downsample is None else conv_norm(x, *block.downsample)


class ResNet(CheckpointedStack, resnet.ResNet):
    """A ResNet without its classifier, from images to the features of its last stages."""

    conv1: nn.Conv2d
    bn1: FrozenBatchNorm2d
    maxpool: nn.MaxPool2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self, block: type[BasicBlock | Bottleneck], num_blocks: list[int], dilation: bool = False, num_levels: int = 1
    ) -> None:
        """`dilation`: layer4 keeps layer3's resolution; `num_levels`: stages whose features are returned, up to 4."""
        dilated = [False, False, dilation]  # of layer2, layer3, layer4
        super().__init__(block, num_blocks, replace_stride_with_dilation=dilated, norm_layer=FrozenBatchNorm2d)
        del self.avgpool, self.fc
        self.num_channels = [block.expansion * width for width in (64, 128, 256, 512)][-num_levels:]
        self.strides = [4, 8, 16, 16 if dilation else 32][-num_levels:]

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> (B, channels, H / stride, W / stride) of each level, the finest first."""
        x = self.maxpool(conv_norm(x, self.conv1, self.bn1).relu())
        return self.last_levels(x, [self.layer1, self.layer2, self.layer3, self.layer4], len(self.strides))


RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
