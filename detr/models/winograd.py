"""3x3 convolutions with a quarter of the multiplications, for CPUs: Winograd's F(4x4, 3x3) in the form of Lavin and
Gray (2016, arXiv:1509.09308).

A row of a tile is a polynomial, and so is a row of the weight. Their values at six points are multiplied instead of
their coefficients, in both directions; what is left of a layer is a product of matrices for each of the 36 pairs of
points. All convolutions here have stride 1, padding 1 and dilation 1.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from detr.heap import LARGEST

TILE = 4  # outputs in each direction, which see TILE + 2 inputs
# And infinity. Errors are 1 to 2 x those of oneDNN's convolution; with the article's 1 and 2 they are 4 to 7 x.
POINTS = torch.tensor([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2], dtype=torch.float64)
BYTES_AT_ONCE = 4 * 2**20  # of values, so that the processor's cache has them still for their product


def _values(size: int) -> Tensor:
    """The matrix (6, size) from a polynomial's coefficients to its values at the points."""
    return torch.cat([torch.linalg.vander(POINTS, N=size), torch.eye(size, dtype=POINTS.dtype)[-1:]])


def _in_both_directions(matrix: Tensor) -> Tensor:
    return torch.kron(matrix, matrix)


INPUT = _in_both_directions(_values(TILE + 2).inverse().T)  # (36, 36)
WEIGHT = _in_both_directions(_values(3))  # (36, 9)
OUTPUT = _in_both_directions(_values(TILE)).T  # (16, 36)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether it is for x (B, I, H, W) and weight (O, I, 3, 3), by measurements (docs/performance.md): the tensors must
    be thick enough for products of matrices, and the values of the weight few enough.
    """
    outputs, inputs = weight.shape[:2]
    tiles = len(x) * -(-x.shape[2] // TILE) * -(-x.shape[3] // TILE)
    num_bytes = len(WEIGHT) * outputs * inputs * weight.itemsize
    return num_bytes < LARGEST and 1 / tiles + 1 / inputs + 1 / outputs < 1 / 45


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """conv2d(x, weight, bias, padding=1): x (B, I, H, W), weight (O, I, 3, 3), bias (O,) -> (B, O, H, W)."""
    return _convolved(x, weight.permute(2, 3, 1, 0), bias)


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """grad (B, O, H, W) of the output, weight (O, I, 3, 3) -> the gradient (B, I, H, W) of the input."""
    return _convolved(grad, weight.flip(2, 3).permute(2, 3, 0, 1), grad.new_zeros(weight.shape[1]))


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """x (B, I, H, W), grad (B, O, H, W) of the output -> the gradient (O, I, 3, 3) of the weight."""
    values = x.new_zeros(len(WEIGHT), grad.shape[1], x.shape[1])
    for rows in _bands(x):
        values.baddbmm_(_transformed(OUTPUT.T, _tiles(grad, rows, 0)).mT, _transformed(INPUT, _tiles(x, rows, 1)))
    result = _transformed(WEIGHT.T, values).unflatten(0, (3, 3)).permute(2, 3, 0, 1)
    return result.contiguous(memory_format=torch.channels_last)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, I, H, W), weight (3, 3, I, O), bias (O,) -> (B, O, H, W)."""
    factors = _transformed(WEIGHT, weight)  # (36, I, O)
    size = len(x), len(bias), *x.shape[2:]
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for rows in _bands(x):
        tiles = _tiles(x, rows, 1)
        outputs = _transformed(OUTPUT, _transformed(INPUT, tiles) @ factors)
        outputs = outputs.view(TILE, TILE, *tiles.shape[2:5], -1).permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
        into = out[:, :, rows].permute(0, 2, 3, 1)
        torch.add(outputs[:, : into.shape[1], : into.shape[2]], bias, out=into)
    return out


def _bands(x: Tensor) -> Iterator[slice]:
    """Rows of x (B, C, H, W) whose tiles' values are not too many for the cache."""
    of_a_row_of_tiles = len(INPUT) * len(x) * -(-x.shape[3] // TILE) * x.shape[1] * x.itemsize
    size = TILE * max(1, BYTES_AT_ONCE // of_a_row_of_tiles)
    return (slice(start, min(start + size, x.shape[2])) for start in range(0, x.shape[2], size))


def _tiles(x: Tensor, rows: slice, edge: int) -> Tensor:
    """(B, C, H, W) -> (n, n, B, rows, columns, C), a view of each tile and what is `edge` around it; n = TILE + 2 edge.
    Beyond the image are zeros.
    """
    height, width = x.shape[-2:]
    below = rows.stop + (rows.start - rows.stop) % TILE - height
    x = F.pad(x, (edge, edge + -width % TILE, edge - rows.start, edge + below))  # or cut off, where negative
    size = TILE + 2 * edge
    return x.unfold(2, size, TILE).unfold(3, size, TILE).permute(4, 5, 0, 2, 3, 1)


def _transformed(matrix: Tensor, parts: Tensor) -> Tensor:
    """matrix (m, n) times the n numbers in the first dimensions of (..., C) -> (m, N, C)."""
    product = matrix.to(parts.dtype) @ parts.reshape(matrix.shape[1], -1)
    return product.view(len(matrix), -1, parts.shape[-1])
