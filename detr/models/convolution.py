"""Convolutions with scaled weights whose backward pass costs a CPU little time and memory.

The scaled weights are not kept for the backward pass, which computes them again. 3x3 convolutions are Winograd's where
these are faster. Elsewhere the gradient of the weights is a product of matrices for each place of the kernel: with the
channels last, oneDNN's takes two to four times as long as its forward pass, and its error is ten times as large
(docs/performance.md).
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from detr.models import winograd

convolution_backward = torch.ops.aten.convolution_backward  # the library's, for any device and type
Geometry = tuple[int, int, int]  # stride, padding, dilation


class Convolution(NamedTuple):
    """conv2d(x, weight * scale) + bias, with a weight (O, I, k, k) and scale and bias (O,)."""

    weight: Tensor
    scale: Tensor
    bias: Tensor
    geometry: Geometry

    def __call__(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x (B, I, H, W) -> (B, O, h, w), for use inside of a Function.

        dtype: of x, in a backward pass, where autocast does not convert the weights
        """
        if self._is_winograds(x):
            return winograd.convolution(x, self.scaled(), self.bias)
        return F.conv2d(x, self.scaled().to(dtype=dtype), self.bias.to(dtype=dtype), *self.geometry)

    def scaled(self) -> Tensor:
        """The weight with its scale."""
        return self.weight * self.scale[:, None, None, None]

    def gradients(self, grad: Tensor, x: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """grad (B, O, h, w) of the output, x (B, I, H, W) -> the gradients of x and weight, each if it is wanted."""
        x = x.to(grad.dtype)
        of_weight = self._weight_gradient(grad, x) if wanted[1] else None
        return self._input_gradient(grad, x) if wanted[0] else None, of_weight

    def _weight_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        if self._is_winograds(x):
            result = winograd.weight_gradient(x, grad)
        elif _in_full_precision_on_a_cpu(x):
            result = weight_gradient(x, grad, self.weight.shape[-1], *self.geometry)
        else:
            _, result = self._torchs_gradients(grad, x, self.weight.to(grad.dtype), wanted=(False, True))
        return result.to(self.weight.dtype).mul_(self.scale[:, None, None, None])

    def _input_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        scaled = self.scaled().to(grad.dtype)
        if self._is_winograds(x):
            return winograd.input_gradient(grad, scaled)
        return self._torchs_gradients(grad, x, scaled, wanted=(True, False))[0]

    def _torchs_gradients(
        self, grad: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool]
    ) -> list[Tensor | None]:
        pairs = [[n, n] for n in self.geometry]
        return convolution_backward(grad, x, weight, None, *pairs, False, [0, 0], 1, [*wanted, False])[:2]

    def _is_winograds(self, x: Tensor) -> bool:
        if not _in_full_precision_on_a_cpu(x) or torch.is_autocast_enabled("cpu"):
            return False
        return self.weight.shape[-1] == 3 and self.geometry == (1, 1, 1) and winograd.is_faster(x, self.weight)


class ScaledConv2d(Function):
    """A Convolution with gradients for x and weight."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
        """x (B, I, H, W), and the fields of a Convolution -> (B, O, h, w)."""
        ctx.save_for_backward(x, weight, scale, bias)
        ctx.geometry = geometry
        return Convolution(weight, scale, bias, geometry)(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, O, h, w) -> the gradients of x and weight."""
        x, *fields = ctx.saved_tensors
        gradients = Convolution(*fields, ctx.geometry).gradients(grad, x, ctx.needs_input_grad[:2])
        return *gradients, None, None, None


def weight_gradient(x: Tensor, grad: Tensor, size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The gradient (O, I, size, size) of a convolution's weights, for its input x (B, I, H, W) and the gradient
    (B, O, h, w) of its output.

    On one grid, the outputs and what they see at one place of the kernel lie a constant distance apart in memory, so
    that each place is a product of two matrices that are there already. Zeros at the end of each row and image are the
    padding to the left of the next as well.
    """
    (height, width), (h, w) = x.shape[-2:], grad.shape[-2:]
    rows, columns = (max(m, -(-n // stride) - (-padding // stride)) for n, m in ((height, h), (width, w)))
    x = _padded(x, (0, columns * stride - width, 0, rows * stride - height))
    outputs = _tokens(_padded(grad, (0, columns - w, 0, rows - h)))  # (B * rows * columns, O)
    result = grad.new_empty(outputs.shape[1], size, size, x.shape[1])
    distances = [divmod(i * dilation - padding, stride) for i in range(size)]
    for i0, j0 in product(sorted({start for _, start in distances}), repeat=2):
        inputs = _tokens(x[:, :, i0::stride, j0::stride])
        for (i, (down, row)), (j, (right, column)) in product(enumerate(distances), repeat=2):
            if (row, column) == (i0, j0):
                shift = down * columns + right
                seen = slice(max(0, shift), len(inputs) + min(0, shift))  # the others see padding
                seeing = slice(seen.start - shift, seen.stop - shift)
                torch.mm(outputs[seeing].t(), inputs[seen], out=result[:, i, j])
    return result.permute(0, 3, 1, 2)


def _in_full_precision_on_a_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype.itemsize >= 4


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), a view where the channels are last in memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _padded(x: Tensor, edges: tuple[int, ...]) -> Tensor:
    return F.pad(x, edges) if any(edges) else x  # which would copy it
