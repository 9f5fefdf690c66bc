"""A ResNet's 3x3 convolutions by Winograd's algorithm against those they replace: seconds and rounding errors.

    .venv/bin/python -m benchmarks.winograd

A layer's output and the gradients of its input and weight. The others are oneDNN's convolution and its gradient of the
input, and a product of matrices for each place of the kernel as the gradient of the weight. Errors are root mean
squares, relative to those of the figures in float64.
"""

import argparse
import statistics
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.heap import keep_freed_memory
from detr.models import winograd
from detr.models.convolution import convolution_backward, weight_gradient

SIZES = [(2, 480, 640), (2, 800, 1066)]  # of batches of images
LAYERS = [(64, 4), (128, 8), (256, 16), (512, 32)]  # channels, and pixels of the image for one


def draw(images: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight, and gradient of the output."""
    torch.manual_seed(0)
    size = images, channels, height, width
    shapes = size, (channels, channels, 3, 3), size
    x, weight, grad = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in shapes)
    return x, weight, grad


def ours(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, gradient of the input and gradient of the weight."""
    return [
        winograd.convolution(x, weight, x.new_zeros(len(weight))),
        winograd.input_gradient(grad, weight),
        winograd.weight_gradient(x, grad),
    ]


def other(x: Tensor, weight: Tensor, grad: Tensor) -> list[Tensor]:
    """The same, by what Winograd's algorithm replaces."""
    ones = [1, 1]
    of_x, _, _ = convolution_backward(grad, x, weight, None, ones, ones, ones, False, [0, 0], 1, [True, False, False])
    return [
        F.conv2d(x, weight, x.new_zeros(len(weight)), padding=1),
        of_x,
        weight_gradient(x, grad, size=3, stride=1, padding=1, dilation=1),
    ]


def entries(repetitions: int = 15) -> Iterator[Entry]:
    """All layers."""
    keep_freed_memory()
    for images, height, width in SIZES:
        for channels, stride in LAYERS:
            size = images, channels, -(-height // stride), -(-width // stride)
            tensors = draw(*size)
            exact = other(*(tensor.double() for tensor in tensors))
            sides = {"ours": partial(ours, *tensors), "other": partial(other, *tensors)}
            errors = {
                f"{side}, largest error (10^-6)": 1e6 * max(map(error, work(), exact)) for side, work in sides.items()
            }
            seconds = interleave(sides, repetitions)
            medians = {f"{side} (ms)": 1000 * statistics.median(values) for side, values in seconds.items()}
            ratio = ratio_and_spread(seconds["ours"], seconds["other"])
            taken = "taken" if winograd.is_faster(*tensors[:2]) else "not taken"
            yield Entry(f"3x3 convolution, {taken}", "oneDNN and products", f"{size}", *ratio, "", medians | errors)


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square, relative to that of the exact figures."""
    return ((found - exact).pow(2).mean() / exact.pow(2).mean()).sqrt().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    show(entries(parser.parse_args().repetitions))
