"""The scaled convolution against torch's own, whose gradients come from autograd."""

import pytest
import torch
import torch.nn.functional as F

from detr.models.convolution import ScaledConv2d

PLACES = {  # size, stride, padding, dilation
    "1x1": (1, 1, 0, 1),
    "1x1 every second": (1, 2, 0, 1),
    "1x1 padded": (1, 1, 1, 1),
    "2x2 padded": (2, 1, 1, 1),
    "2x2 every second": (2, 2, 0, 1),
    "3x3": (3, 1, 1, 1),
    "3x3 every second": (3, 2, 1, 1),
    "3x3 dilated": (3, 1, 2, 2),
    "3x3 dilated, every second": (3, 2, 2, 2),
    "3x3 every third, unpadded": (3, 3, 0, 1),
    "7x7 every second": (7, 2, 3, 1),
}


def draw(height, width, size, dtype=torch.float64):
    """Images, weights, scale and bias."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(7, 5, size, size, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), 0.5 + torch.rand(7, dtype=dtype), torch.randn(7, dtype=dtype)


@pytest.mark.parametrize(("height", "width"), [(16, 20), (15, 21), (13, 12)])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_function_and_gradients_are_those_of_torch(places, height, width):
    size, *places = places
    x, weight, scale, bias = draw(height, width, size)
    found = ScaledConv2d.apply(x, weight, scale, bias, tuple(places))
    expected = F.conv2d(x, weight * scale[:, None, None, None], bias, *places)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight), grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_any_order_in_memory_will_do():
    x, weight, scale, bias = draw(9, 8, 3)
    orders = (torch.contiguous_format, torch.channels_last)
    fixed = weight, scale, bias, (2, 1, 1)
    outputs = [ScaledConv2d.apply(x.contiguous(memory_format=order), *fixed) for order in orders]
    grad = torch.randn_like(outputs[0])
    first, second = (
        torch.autograd.grad(y, (x, weight), grad.contiguous(memory_format=o))
        for y, o in zip(outputs, orders, strict=True)
    )
    torch.testing.assert_close(first, second)


def test_gradient_has_the_weights_order_in_memory():
    """Autograd would copy another one."""
    x, weight, scale, bias = draw(9, 8, 3)
    weight = weight.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    ScaledConv2d.apply(x, weight, scale, bias, (1, 1, 1)).sum().backward()
    assert weight.grad.stride() == weight.stride()


def test_half_precision():
    """The input may be float32 still: that of the first convolution is."""
    x, weight, scale, bias = draw(9, 8, 3, torch.float32)
    exact = F.conv2d(x, weight * scale[:, None, None, None], bias, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = ScaledConv2d.apply(x, weight, scale, bias, (1, 1, 1))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=0.02 * exact.abs().max().item())
    grad = torch.randn_like(exact)
    expected = torch.autograd.grad(exact, (x, weight), grad)
    for a, b in zip(torch.autograd.grad(found, (x, weight), grad.bfloat16()), expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.02 * b.abs().max().item())
