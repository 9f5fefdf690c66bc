"""Bottlenecks as one function against the same convolutions one after the other, and torch's own."""

import pytest
import torch
import torch.nn.functional as F

from detr.models import bottleneck
from detr.models.bottleneck import bottlenecks
from detr.models.convolution import Convolution, ScaledConv2d

PLACES = {  # inputs, width, outputs, stride and dilation of each block
    "one": [(8, 3, 8, 1, 1)],
    "one with a shortcut": [(5, 3, 8, 1, 1)],
    "three, the first with a stride": [(5, 3, 8, 2, 1), (8, 3, 8, 1, 1), (8, 4, 8, 1, 1)],
    "two, dilated": [(5, 3, 8, 1, 2), (8, 3, 8, 1, 2)],
}


def draw(places, dtype=torch.float64, images=3):
    """Images and blocks."""
    torch.manual_seed(0)

    def convolution(inputs, outputs, size, stride, padding, dilation):
        weight = torch.randn(outputs, inputs, size, size, dtype=dtype) / (inputs * size**2) ** 0.5
        scale, bias = 0.5 + torch.rand(outputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
        return Convolution(weight.requires_grad_(), scale, bias, (stride, padding, dilation))

    blocks = []
    for inputs, width, outputs, stride, dilation in places:
        block = [convolution(inputs, width, 1, 1, 0, 1), convolution(width, width, 3, stride, dilation, dilation)]
        block.append(convolution(width, outputs, 1, 1, 0, 1))
        if inputs != outputs or stride > 1:
            block.append(convolution(inputs, outputs, 1, stride, 0, 1))
        blocks.append(block)
    x = torch.randn(images, places[0][0], 9, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), blocks


def in_turn(x, blocks, convolved):
    """The blocks' output, by their convolutions one after the other."""
    for first, second, third, *shortcut in blocks:
        out = convolved(convolved(x, first).relu(), second).relu()
        x = (convolved(out, third) + (convolved(x, shortcut[0]) if shortcut else x)).relu()
    return x


def torchs(x, convolution):
    """The output of one convolution, by torch's function."""
    weight, scale, bias, geometry = convolution
    return F.conv2d(x, weight * scale[:, None, None, None], bias, *geometry)


def weights(blocks):
    return [convolution.weight for block in blocks for convolution in block]


@pytest.mark.parametrize("fixed", [False, True], ids=["", "x fixed"])  # the input of layer2 asks for no gradient
@pytest.mark.parametrize("limit", [1, 2 * 8 * 9 * 8 * 8 + 1, 2**24], ids=["one by one", "two, then one", "at once"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_features_and_gradients_are_those_of_torch(places, limit, fixed, monkeypatch):
    monkeypatch.setattr(bottleneck, "LARGEST", limit)
    x, blocks = draw(places)
    x.requires_grad_(not fixed)
    found, expected = bottlenecks(x, blocks), in_turn(x, blocks, torchs)
    torch.testing.assert_close(found, expected)
    grad, wanted = torch.randn_like(expected), weights(blocks) if fixed else [x, *weights(blocks)]
    before = grad.clone()
    for a, b in zip(*(torch.autograd.grad(y, wanted, grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(grad, before)  # it is another's


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_figures_are_those_of_the_convolutions_to_the_bit(precision):
    x, blocks = draw(PLACES["three, the first with a stride"], torch.float32)
    x = x.detach().to(precision).requires_grad_()  # the type that layer1 gives
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = bottlenecks(x, blocks)
        expected = in_turn(x, blocks, lambda x, convolution: ScaledConv2d.apply(x, *convolution))
    assert found.dtype == precision
    assert torch.equal(found, expected)
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, [x, *weights(blocks)], grad) for y in (found, expected)), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_what_is_large_is_not_kept():
    """The sums of the blocks, and what the 3x3 convolution with a stride takes."""
    x, blocks = draw(PLACES["three, the first with a stride"])
    out = bottlenecks(x, blocks)
    given = {t.data_ptr() for t in (x, *(t for block in blocks for c in block for t in c[:3]))}
    kept = [t for t in out.grad_fn.saved_tensors if t.data_ptr() not in given]
    assert [t.shape[1] for t in kept] == [3, 3, 3, 4, 4, 8]
    assert kept[-1].data_ptr() == out.data_ptr()


def test_images_are_taken_so_that_the_heap_keeps_their_features(monkeypatch):
    sizes = []
    monkeypatch.setattr(bottleneck, "LARGEST", 2 * 8 * 9 * 8 * 8 + 1)  # two images of 8 x 9 x 8 numbers
    gradients = bottleneck._gradients
    monkeypatch.setattr(bottleneck, "_gradients", lambda *a, **k: (sizes.append(len(a[1])), gradients(*a, **k))[1])
    x, blocks = draw(PLACES["one"], images=5)
    bottlenecks(x, blocks).sum().backward()
    assert sizes == [2, 2, 1]


def test_a_gpu_takes_all_images_at_once(monkeypatch):
    monkeypatch.setattr(bottleneck, "LARGEST", 1)
    assert bottleneck._images_at_once(torch.empty(5, 8, 9, 8, device="meta")) == 5
    assert bottleneck._images_at_once(torch.empty(5, 8, 9, 8)) == 1


def test_a_size_at_the_limit_is_above_it(monkeypatch):
    """glibc gives back blocks of the limit, too."""
    monkeypatch.setattr(bottleneck, "LARGEST", 2 * 8 * 9 * 8 * 4)
    assert bottleneck._images_at_once(torch.empty(5, 8, 9, 8)) == 1


def test_what_is_kept_stays_as_it_is():
    """For a second backward pass."""
    x, blocks = draw(PLACES["three, the first with a stride"])
    out = bottlenecks(x, blocks)
    first, second = (torch.autograd.grad(out.sum(), [x, *weights(blocks)], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("fixed", [False, True])
def test_the_gradient_of_the_input_is_computed_where_it_is_wanted(fixed, monkeypatch):
    """With a block's 1x1 convolution and its shortcut's."""
    wanted, gradients = [], Convolution.gradients
    monkeypatch.setattr(Convolution, "gradients", lambda *a: (wanted.append(a[3][0]), gradients(*a))[1])
    x, blocks = draw(PLACES["one with a shortcut"])
    bottlenecks(x.requires_grad_(not fixed), blocks).sum().backward()
    assert wanted == [True, True, not fixed, not fixed]
