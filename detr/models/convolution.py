"""Convolutions with scaled weights whose backward pass costs a CPU little time and memory.

The scaled weights are not kept for the backward pass, which computes them again. The gradient of the weights is a
product of matrices for each place of the kernel: with the channels last, oneDNN's takes two to four times as long as
its forward pass, and its error is ten times as large (docs/performance.md).
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

convolution_backward = torch.ops.aten.convolution_backward  # the library's, for any device and type
Geometry = tuple[int, int, int]  # stride, padding, dilation


class ScaledConv2d(Function):
    """conv2d(x, weight * scale) + bias, with gradients for x and weight."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
        """x (B, I, H, W), weight (O, I, k, k), scale and bias (O,) -> (B, O, h, w)."""
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry = geometry
        return F.conv2d(x, _scaled(weight, scale), bias, *geometry)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, O, h, w) -> the gradients of x and weight."""
        x, weight, scale = ctx.saved_tensors
        of_x, of_weight = _gradients(grad, x, weight, scale, ctx.geometry, ctx.needs_input_grad[:2])
        return of_x, of_weight, None, None, None


class TwoScaledConvs2d(Function):
    """A scaled convolution, ReLU and a second one. What lies between them is not kept for the backward pass, which
    computes it again: little work where the first convolution is of 1x1.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight1: Tensor,
        scale1: Tensor,
        bias1: Tensor,
        geometry1: Geometry,
        weight2: Tensor,
        scale2: Tensor,
        bias2: Tensor,
        geometry2: Geometry,
    ) -> Tensor:
        """x (B, I, H, W), and what ScaledConv2d takes, for weights (M, I, k, k) and (O, M, l, l) -> (B, O, h, w)."""
        ctx.save_for_backward(x, weight1, scale1, bias1, weight2, scale2)
        ctx.geometries = geometry1, geometry2
        between = F.conv2d(x, _scaled(weight1, scale1), bias1, *geometry1).relu_()
        return F.conv2d(between, _scaled(weight2, scale2), bias2, *geometry2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, O, h, w) -> the gradients of x and both weights."""
        x, weight1, scale1, bias1, weight2, scale2 = ctx.saved_tensors
        geometry1, geometry2 = ctx.geometries
        scaled, bias = (value.to(grad.dtype) for value in (_scaled(weight1, scale1), bias1))
        between = F.conv2d(x.to(grad.dtype), scaled, bias, *geometry1).relu_()
        of_between, of_weight2 = _gradients(grad, between, weight2, scale2, geometry2, (True, ctx.needs_input_grad[5]))
        of_between.masked_fill_(between <= 0, 0)
        del between
        of_x, of_weight1 = _gradients(of_between, x, weight1, scale1, geometry1, ctx.needs_input_grad[:2])
        return of_x, of_weight1, None, None, None, of_weight2, None, None, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a scaled convolution's input and weights from that of its output, each if it is wanted."""
    x, pairs = x.to(grad.dtype), [[n, n] for n in geometry]
    of_x = of_weight = None
    if wanted[1]:
        if grad.device.type == "cpu" and grad.dtype.itemsize >= 4:
            of_weight = weight_gradient(x, grad, weight.shape[-1], *geometry)
        else:
            _, of_weight, _ = convolution_backward(
                grad, x, weight.to(grad.dtype), None, *pairs, False, [0, 0], 1, [False, True, False]
            )
        of_weight = of_weight.to(weight.dtype).mul_(scale[:, None, None, None])
    if wanted[0]:
        scaled = _scaled(weight, scale).to(grad.dtype)
        of_x, _, _ = convolution_backward(grad, x, scaled, None, *pairs, False, [0, 0], 1, [True, False, False])
    return of_x, of_weight


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale[:, None, None, None]


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


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), a view where the channels are last in memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _padded(x: Tensor, edges: tuple[int, ...]) -> Tensor:
    return F.pad(x, edges) if any(edges) else x  # which would copy it
