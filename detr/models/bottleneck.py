"""Bottleneck blocks whose backward pass computes most of their features again, which saves memory for little work.

Such recomputation, activation checkpointing, is also torch.utils.checkpoint's. Here it is that of the large features
alone, and of a few images at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from detr.heap import LARGEST
from detr.models.convolution import Convolution, Geometry

threshold_backward = torch.ops.aten.threshold_backward
Block = list[Convolution]  # of 1x1, 3x3 and 1x1, and one for the shortcut where it has one


def bottlenecks(x: Tensor, blocks: list[Block]) -> Tensor:
    """ResNet's bottleneck blocks one after the other: (B, I, H, W) -> (B, O, h, w)."""
    geometries = [[convolution.geometry for convolution in block] for block in blocks]
    fields = [field for block in blocks for *tensors, _ in block for field in tensors]
    return Bottlenecks.apply(x, geometries, *fields)


class Bottlenecks(Function):
    """Blocks in a row, as one function.

    Of their features it keeps for the backward pass what goes in, what the 3x3 convolutions take and give, and what
    comes out. The sums of the blocks, and what a 3x3 convolution with a stride takes, are larger: 1x1 convolutions
    compute them again. On a CPU this is done for some of the images at a time, whose features then fit into memory
    that others have freed.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, geometries: list[list[Geometry]], *fields: Tensor) -> Tensor:
        """x (B, I, H, W), the geometries of each block's convolutions, and in `fields` weight, scale and bias of all of
        them one after the other -> (B, O, h, w).
        """
        kept, out = [], x
        for block in _blocks(geometries, iter(fields)):
            first, second, *_ = block
            between = first(out).relu_()
            features = second(between).relu_()
            kept += [features, between] if _keeps_between(block) else [features]
            out = _end(block, features, out)
        ctx.save_for_backward(*fields, x, *kept, out)
        ctx.geometries = geometries
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """grad (B, O, h, w) -> the gradients of x, if it is wanted, and of all weights."""
        saved = iter(ctx.saved_tensors)
        blocks = _blocks(ctx.geometries, saved)
        of_x, of_weights = [], None
        for part in zip(*(tensor.split(_images_at_once(grad)) for tensor in (grad, *saved)), strict=True):
            of_part, more = _gradients(blocks, *part, wanted=ctx.needs_input_grad[0])
            of_x.append(of_part)
            of_weights = more if of_weights is None else [a.add_(b) for a, b in zip(of_weights, more, strict=True)]
        of_fields = (gradient for weight in of_weights for gradient in (weight, None, None))
        return torch.cat(of_x) if ctx.needs_input_grad[0] else None, None, *of_fields


def _gradients(
    blocks: list[Block], grad: Tensor, x: Tensor, *kept: Tensor, wanted: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradients of x, if it is wanted, and of the weights from those of the output; kept: from the forward pass."""
    *between_ends, out = kept
    tensors = iter(between_ends)
    inner = [[next(tensors) for _ in range(1 + _keeps_between(block))] for block in blocks]
    inputs = [x.to(grad.dtype)]
    for block, (features, *_) in zip(blocks[:-1], inner[:-1], strict=True):
        inputs.append(_end(block, features, inputs[-1], grad.dtype))
    of_weights = []
    grad = threshold_backward(grad, out, 0)
    for block in reversed(blocks):
        x = inputs.pop()
        grad, of_block = _block_gradients(block, grad, x, *inner.pop(), wanted=wanted or bool(inputs))
        of_weights = of_block + of_weights
        if inputs:
            _mask_(grad, x)
    return grad, of_weights


def _block_gradients(
    block: Block, grad: Tensor, x: Tensor, features: Tensor, between: Tensor | None = None, *, wanted: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradients of a block's input x, if it is wanted, and of its weights from that of the sum before its last
    ReLU; features, between: what its 3x3 convolution gives and takes.
    """
    first, second, third, *shortcut = block
    of_features, of_third = third.gradients(grad, features, (True, True))
    _mask_(of_features, features)
    between = first(x, grad.dtype).relu_() if between is None else between
    of_between, of_second = second.gradients(of_features, between, (True, True))
    _mask_(of_between, between)
    del between, of_features
    of_x, of_first = first.gradients(of_between, x, (wanted, True))
    of_shortcuts = []
    for convolution in shortcut:
        grad, of_weight = convolution.gradients(grad, x, (wanted, True))
        of_shortcuts.append(of_weight)
    return of_x.add_(grad) if wanted else None, [of_first, of_second, of_third, *of_shortcuts]


def _blocks(geometries: list[list[Geometry]], fields: Iterator[Tensor]) -> list[Block]:
    return [[Convolution(next(fields), next(fields), next(fields), g) for g in block] for block in geometries]


def _keeps_between(block: Block) -> bool:
    """Whether what the 3x3 convolution takes is as small as what it gives."""
    return block[1].geometry[0] == 1


def _end(block: Block, features: Tensor, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """What a block gives, from the features of its 3x3 convolution and its input x."""
    _, _, third, *shortcut = block
    return third(features, dtype).add_(shortcut[0](x, dtype) if shortcut else x).relu_()


def _mask_(grad: Tensor, out: Tensor) -> None:
    """Make the gradient of what ReLU gave, `out`, that of its input."""
    threshold_backward.grad_input(grad, out, 0, grad_input=grad)


def _images_at_once(grad: Tensor) -> int:
    """How many images make features smaller than those whose memory goes back to the system."""
    if grad.device.type != "cpu":
        return len(grad)
    return max(1, (LARGEST - 1) // (grad[0].numel() * grad.element_size()))
