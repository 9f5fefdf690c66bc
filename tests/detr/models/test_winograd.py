"""Winograd's convolutions against torch's own, where they are taken, and that DETR's figures stay the official ones."""

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detr.fidelity.golden import GOLDEN, compare, read_cases
from detr.models import winograd
from detr.models.convolution import Convolution, ScaledConv2d

FUNCTIONS = ("convolution", "input_gradient", "weight_gradient")


def draw(height: int, width: int, dtype: torch.dtype = torch.float64, channels: int = 5) -> tuple[Tensor, ...]:
    """Images, a weight, a bias and the gradient of the output."""
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(7, channels, 3, 3, dtype=dtype) / (9 * channels) ** 0.5
    grad = torch.randn(2, 7, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x, weight, torch.randn(7, dtype=dtype), grad


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of input and weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = F.conv2d(x, weight, bias, padding=1)
    return [out.detach(), *torch.autograd.grad(out, (x, weight), grad)]


def by_winograd(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    return [
        winograd.convolution(x, weight, bias),
        winograd.input_gradient(grad, weight),
        winograd.weight_gradient(x, grad),
    ]


@pytest.fixture
def functions(monkeypatch) -> list[Mock]:
    """All three, which are called wherever they can be."""
    functions = [Mock(wraps=getattr(winograd, name)) for name in FUNCTIONS]
    for name, function in zip(FUNCTIONS, functions, strict=True):
        monkeypatch.setattr(winograd, name, function)
    monkeypatch.setattr(winograd, "is_faster", lambda x, weight: True)
    return functions


@pytest.mark.parametrize("limit", [2, 3 * 36 * 5 * 8 + 1, 2**24], ids=["one by one", "parts of three", "at once"])
@pytest.mark.parametrize(("height", "width"), [(16, 20), (15, 21), (13, 12), (10, 3), (1, 1)])
def test_figures_are_those_of_torch(height, width, limit, monkeypatch):
    monkeypatch.setattr(winograd, "LARGEST", limit)
    tensors = draw(height, width)
    for found, expected in zip(by_winograd(*tensors), by_torch(*tensors), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_any_order_in_memory_will_do():
    x, weight, bias, grad = draw(9, 8)
    others = x.contiguous(), weight.contiguous(memory_format=torch.channels_last), bias, grad.contiguous()
    for found, expected in zip(by_winograd(*others), by_winograd(x, weight, bias, grad), strict=True):
        torch.testing.assert_close(found, expected)


def test_an_expanded_gradient():
    """That of a sum."""
    x, weight, bias, grad = draw(9, 8)
    tensors = x, weight, bias, grad.new_ones(()).expand_as(grad)
    for found, expected in zip(by_winograd(*tensors), by_torch(*tensors), strict=True):
        torch.testing.assert_close(found, expected)


def test_parts_are_equal(monkeypatch):
    monkeypatch.setattr(winograd, "LARGEST", 4 * 36 * 8 + 1)
    assert [part.stop - part.start for part in winograd._parts(9, 8)] == [3, 3, 3]


@pytest.mark.parametrize(("limit", "heights"), [(2 * 36 * 50 * 8 + 1, [8, 8, 1]), (2 * 36 * 50 * 8, [4, 4, 4, 4, 1])])
def test_rows_of_tiles_are_as_many_as_the_heap_keeps(limit, heights, monkeypatch):
    """Of 2 images with 5 channels, a row of 5 tiles is 36 x 50 numbers of 8 bytes; a block of the limit goes back."""
    monkeypatch.setattr(winograd, "LARGEST", limit)
    x, *_ = draw(17, 20)
    assert [rows.stop - rows.start for rows in winograd._bands(x)] == heights


@pytest.mark.parametrize("height", [16, 15])
def test_output_may_be_changed_in_place(height, functions):
    """By the ReLU that follows, which autograd refuses for a view."""
    x, weight, bias, _ = draw(height, 8)
    out = ScaledConv2d.apply(x, weight.requires_grad_(), torch.ones(7), bias, (1, 1, 1))
    assert functions[0].called
    out.relu_().sum().backward()


def test_rounding_errors_are_small():
    """Root mean squares of errors of float32, relative to the figures': 2 x 10^-6 and more with the usual points, 1 and
    2; 0.6 x 10^-6 of the output in torch.
    """
    tensors = draw(40, 40, torch.float32, channels=128)
    exact = by_torch(*(tensor.double() for tensor in tensors))
    for found, expected in zip(by_winograd(*tensors), exact, strict=True):
        assert (found - expected).pow(2).mean().sqrt() < 1.5e-6 * expected.std()


@pytest.mark.parametrize(
    ("images", "channels", "height", "width", "faster"),
    [
        (2, 64, 120, 160, False),  # layer1 to layer4 of a ResNet-50, of 480 x 640
        (2, 128, 60, 80, True),
        (2, 256, 30, 40, True),
        (2, 512, 15, 20, True),
        (1, 512, 15, 20, False),
        (1, 256, 15, 20, False),
        (2, 128, 40, 40, False),
        (0, 128, 60, 80, False),
    ],
)
def test_it_is_for_thick_tensors(images, channels, height, width, faster):
    x, weight = torch.empty(images, channels, height, width), torch.empty(channels, channels, 3, 3)
    assert winograd.is_faster(x, weight) == faster


def by_convolution(size: int, geometry: tuple[int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The output and the gradients of a Convolution, and torch's."""
    torch.manual_seed(0)
    weight = torch.randn(7, 5, size, size)
    convolution = Convolution(weight, 0.5 + torch.rand(7), torch.randn(7), geometry)
    x = torch.randn(2, 5, 9, 8)
    expected = F.conv2d(x, convolution.scaled(), convolution.bias, *geometry)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = convolution(x)
    grad = torch.randn_like(expected)
    exact = by_autograd(x, convolution, grad)
    return [found, *convolution.gradients(grad.to(dtype), x, (True, True))], [expected, *exact]


def by_autograd(x: Tensor, convolution: Convolution, grad: Tensor) -> tuple[Tensor, ...]:
    x, weight = x.detach().requires_grad_(), convolution.weight.detach().requires_grad_()
    out = F.conv2d(x, weight * convolution.scale[:, None, None, None], convolution.bias, *convolution.geometry)
    return torch.autograd.grad(out, (x, weight), grad)


def test_it_is_taken_for_all_three(functions):
    for found, expected in zip(*by_convolution(3, (1, 1, 1), torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert [function.call_count for function in functions] == [1, 1, 1]


@pytest.mark.parametrize(
    ("size", "geometry", "dtype"),
    [
        (1, (1, 1, 1), torch.float32),
        (3, (2, 1, 1), torch.float32),
        (3, (1, 0, 1), torch.float32),
        (3, (1, 2, 2), torch.float32),
        (3, (1, 1, 1), torch.bfloat16),  # by autocast, with an input in float32
    ],
    ids=["1x1", "with a stride", "not padded", "dilated", "bfloat16"],
)
def test_it_is_left_where_it_cannot_be(size, geometry, dtype, functions):
    found, expected = by_convolution(size, geometry, dtype)
    assert not any(function.called for function in functions)
    assert found[0].dtype == dtype
    for a, b in zip(found, expected, strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 0.03 * b.abs().max().item()
        torch.testing.assert_close(a.float(), b, rtol=0, atol=tolerance)


def test_a_backward_pass_within_autocast(functions):
    """Of a forward pass in float32: autocast would mix the types of winograd's products."""
    x, weight, bias, grad = draw(9, 8, torch.float32)
    convolution = Convolution(weight, torch.ones(7), bias, (1, 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = convolution.gradients(grad, x, (True, True))
    assert not any(function.called for function in functions)
    for a, b in zip(found, by_autograd(x, convolution, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_tracing_leaves_it_as_it_is_for_all_sizes(functions):
    """It would be traced anew for each."""
    _, weight, bias, _ = draw(9, 8, torch.float32)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def layer(x: Tensor) -> Tensor:
        return ScaledConv2d.apply(x, weight, torch.ones(7), bias, (1, 1, 1)).relu()

    compiled, counts = torch.compile(layer, backend=count, dynamic=True), []
    for height in (9, 18, 27, 36):
        x, *_ = draw(height, 8, torch.float32)
        assert torch.equal(compiled(x), layer(x))
        counts.append(len(graphs))
    assert counts[1] == counts[-1]
    torch.compiler.reset()


def test_a_gpu_has_its_own(functions):
    """For which tensors without values stand."""
    fields = torch.empty(7, 5, 3, 3, device="meta"), *torch.empty(2, 7, device="meta"), (1, 1, 1)
    x = torch.empty(2, 5, 9, 8, device="meta")
    found = Convolution(*fields)(x)
    Convolution(*fields).gradients(found, x, (True, True))
    assert not any(function.called for function in functions)


def test_the_official_figures_are_matched_with_it(functions):
    """Their images are so small that it would not be taken. The other case is left out: the costs of its best two
    queries for an object differ by less than rounding errors, those of oneDNN with more threads as well.
    """
    rows = compare("post_ln", read_cases(GOLDEN)["post_ln"])
    assert [f"{r.quantity}: {r.where} {r.difference}" for r in rows if not r.holds] == []
    assert all(function.called for function in functions)
