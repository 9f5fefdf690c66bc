"""3x3 convolutions whose products of matrices take a quarter of the multiplications, for CPUs: Winograd's F(4x4, 3x3)
in the form of Lavin and Gray (2016, arXiv:1509.09308).

The product of polynomials with 4 and with 3 coefficients is that of their values at six points. A convolution, four
outputs of six inputs, is its transpose: the weight goes to its values, and inputs and outputs through the transposed
matrices. In two directions that makes 36 products for a tile instead of 16 x 9. All convolutions here have stride 1,
padding 1 and dilation 1. A number that is not finite makes all of its tile NaN.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from detr.heap import LARGEST

TILE = 4  # outputs in each direction, which see TILE + 2 inputs
# And infinity. Rounding errors are less than half of those with 1 and 2 (docs/performance.md).
POINTS = torch.tensor([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2], dtype=torch.float64)


def _values(size: int) -> Tensor:
    """The matrix (6, size) from a polynomial's coefficients to its values at the points."""
    return torch.cat([torch.linalg.vander(POINTS, N=size), torch.eye(size, dtype=POINTS.dtype)[-1:]])


def _in_both_directions(matrix: Tensor) -> Tensor:
    return torch.kron(matrix, matrix)


INPUT = _in_both_directions(_values(TILE + 2).inverse().T)  # (36, 36)
WEIGHT = _in_both_directions(_values(3))  # (36, 9)
OUTPUT = _in_both_directions(_values(TILE)).T  # (16, 36)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether this is about 1.3 x as fast as what it replaces, or more, for x (B, I, H, W) and weight (O, I, 3, 3): the
    work for each pixel, input and output must be small beside the products, by factors that were measured.
    """
    pixels = len(x) * x.shape[2] * x.shape[3]
    return pixels * (0.017 - 1 / weight.shape[0] - 1 / weight.shape[1]) > 5


@torch.compiler.disable  # which would compile it for each size
def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """conv2d(x, weight, bias, padding=1): x (B, I, H, W), weight (O, I, 3, 3), bias (O,) -> (B, O, H, W)."""
    places = _places(weight)
    return _convolved(x, bias, lambda outputs: _transformed(WEIGHT, places[outputs]).permute(1, 2, 0))


@torch.compiler.disable  # which would compile it for each size
def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad (B, O, H, W) of the output, weight (O, I, 3, 3) -> the gradient (B, I, H, W) of the input."""
    places, turned = _places(weight), WEIGHT.flip(1)  # for the kernel turned by half a circle
    no_bias = grad.new_zeros(weight.shape[1])
    return _convolved(grad, no_bias, lambda inputs: _transformed(turned, places[..., inputs]).transpose(0, 1))


@torch.compiler.disable  # which would compile it for each size
def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """x (B, I, H, W), grad (B, O, H, W) of the output -> the gradient (O, I, 3, 3) of the weight."""
    result = x.new_empty(grad.shape[1], 9, x.shape[1])
    for outputs in _parts(len(result), x.shape[1] * x.itemsize):
        values = x.new_zeros(len(WEIGHT), len(result[outputs]), x.shape[1])
        for rows in _bands(x):
            seeing = _transformed(OUTPUT.T, _tiles(grad[:, outputs], rows, 0))
            seen = _transformed(INPUT, _tiles(x, rows, 1))
            values.baddbmm_(seeing.permute(1, 2, 0), seen.transpose(0, 1))
        torch.matmul(WEIGHT.T.to(x.dtype), values.transpose(0, 1), out=result[outputs])
    return result.unflatten(1, (3, 3)).permute(0, 3, 1, 2)


def _convolved(x: Tensor, bias: Tensor, factors: Callable[[slice], Tensor]) -> Tensor:
    """x (B, I, H, W), bias (O,), and the weight's values (36, I, part) for a part of the outputs -> (B, O, H, W)."""
    size = len(x), len(bias), *x.shape[2:]
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    columns = -(-x.shape[3] // TILE)
    for rows in _bands(x):
        seen = _transformed(INPUT, _tiles(x, rows, 1)).transpose(0, 1)
        for part in _parts(len(bias), x.shape[1] * x.itemsize):
            outputs = _transformed(OUTPUT, (seen @ factors(part)).transpose(0, 1))
            outputs = outputs.view(len(x), -1, columns, TILE, TILE, outputs.shape[2])
            outputs = outputs.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # pixels, some beyond the image
            into = out[:, part, rows].permute(0, 2, 3, 1)
            torch.add(outputs[:, : into.shape[1], : into.shape[2]], bias[part], out=into)
    return out


def _bands(x: Tensor) -> Iterator[slice]:
    """Rows of x (B, C, H, W), whole tiles but for the last."""
    height, width = x.shape[2:]
    tiles = _parts(-(-height // TILE), len(x) * -(-width // TILE) * x.shape[1] * x.itemsize)
    return (slice(TILE * rows.start, min(TILE * rows.stop, height)) for rows in tiles)


def _parts(size: int, num_bytes: int) -> Iterator[slice]:
    """Of `size` things, each num_bytes for each of the 36 products, equal parts that the heap keeps."""
    most = max(1, (LARGEST - 1) // (len(INPUT) * num_bytes))
    at_once = -(-size // -(-size // most))
    return (slice(start, min(start + at_once, size)) for start in range(0, size, at_once))


def _tiles(x: Tensor, rows: slice, edge: int) -> Tensor:
    """(B, C, H, W) -> (N, n * n, C): the N tiles of these rows in all images, and what is `edge` around each,
    n = TILE + 2 edge. Beyond the image are zeros.
    """
    height, width = x.shape[-2:]
    below = rows.stop + (rows.start - rows.stop) % TILE - height
    x = F.pad(x, (edge, edge + -width % TILE, edge - rows.start, edge + below))  # or cut off, where negative
    size = TILE + 2 * edge
    return x.unfold(2, size, TILE).unfold(3, size, TILE).permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(0, 2)


def _places(weight: Tensor) -> Tensor:
    """(O, I, 3, 3) -> (O, 9, I)."""
    return weight.flatten(2).transpose(1, 2)


def _transformed(matrix: Tensor, parts: Tensor) -> Tensor:
    """(m, n), (N, n, C) -> (N, m, C)."""
    return matrix.to(parts.dtype) @ parts
