"""torchvision's ResNets whose frozen batch norms are folded into the convolutions before them.

A frozen norm is a constant affine map of each channel, so conv followed by norm is one convolution with scaled weights
and a bias: the same function and, since the scaling is part of the graph, the same gradient. It saves a pass over every
feature map and its copy in memory. Names and shapes of the state dict are torchvision's.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from detr.models.bottleneck import bottlenecks
from detr.models.convolution import Convolution, ScaledConv2d


def folded(conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Convolution:
    """norm(conv(x)) as one convolution."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    return Convolution(conv.weight, scale, bias, (conv.stride[0], conv.padding[0], conv.dilation[0]))


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """norm(conv(x)) for a convolution without bias: (B, inputs, H, W) -> (B, outputs, h, w)."""
    return ScaledConv2d.apply(x, *folded(conv, norm))


class BasicBlock(resnet.BasicBlock):
    """Two 3x3 convolutions with a shortcut (ResNet-18 and 34)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out = conv_norm(x, self.conv1, self.bn1).relu_()
        return conv_norm(out, self.conv2, self.bn2).add_(_shortcut(self, x)).relu_()


class Bottleneck(resnet.Bottleneck):
    """1x1, 3x3 and 1x1 convolutions with a shortcut (ResNet-50 and 101)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out = conv_norm(x, self.conv1, self.bn1).relu_()
        out = conv_norm(out, self.conv2, self.bn2).relu_()
        return conv_norm(out, self.conv3, self.bn3).add_(_shortcut(self, x)).relu_()

    def convolutions(self) -> list[Convolution]:
        """Of 1x1, 3x3 and 1x1, and one for the shortcut where it has one."""
        pairs = [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]
        if self.downsample is not None:
            pairs.append(self.downsample)
        return [folded(*pair) for pair in pairs]


class RecomputedBottlenecks(nn.Sequential):
    """Bottlenecks whose backward pass computes again what it costs little to compute."""

    def forward(self, x: Tensor) -> Tensor:
        """As those of its Bottlenecks one after the other."""
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return super().forward(x)  # which keeps nothing
        return bottlenecks(x, [block.convolutions() for block in self])


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    return x if block.downsample is None else conv_norm(x, *block.downsample)


class ResNet(resnet.ResNet):
    """A ResNet up to layer4, from images to features."""

    def __init__(self, block: type[BasicBlock | Bottleneck], num_blocks: list[int], dilation: bool = False) -> None:
        dilated = [False, False, dilation]  # of layer2, layer3, layer4
        super().__init__(block, num_blocks, replace_stride_with_dilation=dilated, norm_layer=FrozenBatchNorm2d)
        self.num_channels = self.fc.in_features
        del self.avgpool, self.fc
        if block is Bottleneck:
            self.layer2 = RecomputedBottlenecks(*self.layer2)  # where it frees the most memory for its work

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_channels, H / 32, W / 32); / 16 when dilated."""
        x = self.maxpool(conv_norm(x, self.conv1, self.bn1).relu_())
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


RESNETS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
