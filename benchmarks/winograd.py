"""A ResNet-50's 3x3 convolutions by Winograd's algorithm against those they replace: seconds and rounding errors.

    .venv/bin/python -m benchmarks.winograd

The others are oneDNN's convolution and its gradient of the input, and a product of matrices for each place of the
kernel as the gradient of the weight. Errors are root mean squares, relative to those of the figures in float64.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.heap import keep_freed_memory
from detr.models import winograd
from detr.models.convolution import convolution_backward, weight_gradient

SIZES = [(2, 480, 640), (2, 800, 1066), (1, 480, 640), (8, 256, 256)]  # of batches of images
LAYERS = [(64, 4), (128, 8), (256, 16), (512, 32)]  # channels, and pixels of the image for one


def functions(x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """Winograd's and the other."""
    bias, pairs = x.new_zeros(len(weight)), [[1, 1]] * 3
    return {
        "output": (lambda: winograd.convolution(x, weight, bias), lambda: F.conv2d(x, weight, bias, padding=1)),
        "gradient of the input": (
            lambda: winograd.input_gradient(grad, weight),
            lambda: convolution_backward(grad, x, weight, None, *pairs, False, [0, 0], 1, [True, False, False])[0],
        ),
        "gradient of the weight": (
            lambda: winograd.weight_gradient(x, grad),
            lambda: weight_gradient(x, grad, size=3, stride=1, padding=1, dilation=1),
        ),
    }


def entries(repetitions: int = 15) -> Iterator[Entry]:
    """All functions of all layers."""
    keep_freed_memory()
    torch.manual_seed(0)
    for images, height, width in SIZES:
        for channels, stride in LAYERS:
            size = images, channels, -(-height // stride), -(-width // stride)
            x, weight, grad = (
                torch.randn(shape).contiguous(memory_format=torch.channels_last)
                for shape in (size, (channels, channels, 3, 3), size)
            )
            taken = "taken" if winograd.is_faster(x, weight) else "not taken"
            exact = functions(x.double(), weight.double(), grad.double())
            for name, (ours, other) in functions(x, weight, grad).items():
                seconds = interleave({"ours": ours, "other": other}, repetitions)
                figures = {f"{key} (ms)": 1000 * statistics.median(values) for key, values in seconds.items()}
                for key, function in (("ours", ours), ("other", other)):
                    figures[f"error of {key} (10^-6)"] = 1e6 * error(function(), exact[name][1]())
                yield Entry(name, "the other", f"{size}, {taken}", *ratio_and_spread(*seconds.values()), "", figures)


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square, relative to that of the exact figures."""
    return ((found - exact).pow(2).mean() / exact.pow(2).mean()).sqrt().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=15)
    show(entries(parser.parse_args().repetitions))
