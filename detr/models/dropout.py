"""Dropout whose random numbers are cheap on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx

threshold_backward = torch.ops.aten.threshold_backward


def dropout(x: Tensor, p: float) -> Tensor:
    """Set each element to 0 with probability `p`, and scale the others so that the mean stays."""
    if x.device.type != "cpu" or not p:
        return F.dropout(x, p)
    return drop(x, draw_kept(x.shape, p), p)


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """dropout(relu(x)) of any shape; x may be overwritten. On a CPU its output is all that it keeps for the backward
    pass; elsewhere a mask beside it, since dropout comes first, which is the same function.
    """
    if not p:
        return x.relu_()
    return ReLUDropout.apply(x, p) if x.device.type == "cpu" else F.dropout(x, p).relu_()


class ReLUDropout(Function):
    """Dropout after a ReLU, on a CPU: where the output is 0 there is no gradient, for either reason."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, p: float) -> Tensor:
        """Any shape."""
        out = drop(x, draw_kept(x.shape, p), p).relu_()
        ctx.save_for_backward(out)
        ctx.p = p
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of x."""
        (out,) = ctx.saved_tensors
        return threshold_backward(grad, out, 0).mul_(dropout_scale(ctx.p)), None


def draw_kept(shape: torch.Size, p: float) -> Tensor:
    """1 for each element that stays and 0 for the others, as uint8 on the CPU: 1 with probability 1 - p, rounded to a
    multiple of 2^-16 above 0.

    torch draws a number of its own for each element, which took 5 % of a step. Here a draw of 64 bits serves four.
    """
    bits = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = bits.view(torch.int16)[: shape.numel()].view(shape)
    return draws.le_(_num_kept(p) - 2**15 - 1).to(torch.uint8)  # torch has no fast kernel that makes or reads booleans


def drop(x: Tensor, kept: Tensor, p: float) -> Tensor:
    """x where `kept` is 1, scaled by the rounded 1 / (1 - p), and 0 elsewhere."""
    return (x * kept).mul_(dropout_scale(p))


def dropout_scale(p: float) -> float:
    """By which the elements that stay are multiplied."""
    return 2**16 / _num_kept(p)


def _num_kept(p: float) -> int:
    return max(1, round((1 - p) * 2**16))  # of the 2^16 values of a draw


class Dropout(nn.Dropout):
    """`dropout` as a module: it acts in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p) if self.training else x
