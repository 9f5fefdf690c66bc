"""Dense attention against torch's own module, in evaluation and with dropout."""

import pytest
import torch
from torch import nn

from detr.models import attention
from detr.models.attention import MultiHeadAttention
from detr.models.dropout import draw_kept, drop

PADDING = torch.tensor([[False] * 6, [False] * 2 + [True] * 4])


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries (2, 5, 8), keys and values (2, 6, 8)."""
    return tuple(torch.randn(2, n, 8, dtype=torch.float64) for n in (5, 6, 6))


def with_random_biases(module: MultiHeadAttention) -> MultiHeadAttention:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


@pytest.mark.parametrize("mask", [None, PADDING], ids=["no padding", "padding"])
@pytest.mark.parametrize("same", [False, True], ids=["to the image", "self"])
def test_outputs_and_gradients_are_those_of_torch(mask, same):
    module = with_random_biases(MultiHeadAttention(8, 2, dropout=0.0))
    query, key, value = tokens()
    if same:
        query = key
    outputs = []
    for forward in (MultiHeadAttention.forward, nn.MultiheadAttention.forward):
        module.zero_grad()
        out = forward(module, query, key, value, mask)
        out = out[0] if isinstance(out, tuple) else out
        (out * torch.arange(8)).sum().backward()
        outputs.append((out, *[p.grad.clone() for p in module.parameters()]))
    for found, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mask", [None, PADDING], ids=["no padding", "padding"])
def test_training_differs_from_evaluation_by_the_dropped_weights_alone(mask, monkeypatch):
    module = with_random_biases(MultiHeadAttention(8, 2, dropout=0.5))
    query, key, value = tokens()
    expected = module.eval()(query, key, value, mask)
    assert not torch.allclose(module.train()(query, key, value, mask), expected)
    draws, seen, compute = [], [], attention._weights
    monkeypatch.setattr(attention, "draw_kept", lambda *draw: draws.append(draw) or torch.ones(draw[0]).byte())
    monkeypatch.setattr(attention, "dropout_scale", lambda p: 1.0)
    monkeypatch.setattr(attention, "_weights", lambda *given: seen.append(compute(*given)) or seen[-1])
    torch.testing.assert_close(module(query, key, value, mask), expected)
    (weights,) = seen
    assert draws == [(weights.shape, 0.5)]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert mask is None or (weights[1, ..., 2:] == 0).all()


@pytest.mark.parametrize("mask", [None, PADDING], ids=["no padding", "padding"])
def test_gradients_with_dropout_are_those_of_autograd(mask):
    q, k, v = (torch.randn(2, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 6, 6))
    torch.manual_seed(0)
    kept = draw_kept(torch.Size([2, 2, 3, 6]), 0.5)
    scores = q @ k.transpose(-2, -1) / 2
    scores = scores if mask is None else scores.masked_fill(mask[:, None, None], float("-inf"))
    expected = drop(scores.softmax(-1), kept, 0.5) @ v
    torch.manual_seed(0)
    found = attention.AttentionWithDropout.apply(q, k, v, mask, 0.5)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_half_precision_trains_as_float32_does_but_for_rounding():
    module, results = with_random_biases(MultiHeadAttention(8, 2, dropout=0.5)).float(), {}
    query, key, value = (x.float() for x in tokens())
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        module.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            out = module(query, key, value, PADDING)
        out.float().square().sum().backward()
        results[dtype] = [out.float(), *(p.grad for p in module.parameters())]
    for rough, exact in zip(results[torch.bfloat16], results[torch.float32], strict=True):
        torch.testing.assert_close(rough, exact, rtol=0, atol=0.03 * exact.abs().max().item())


def test_weights_are_not_kept_for_the_backward_pass():
    q, k, v = (torch.randn(1, 2, n, 4, requires_grad=True) for n in (3, 7, 7))
    kept = attention.AttentionWithDropout.apply(q, k, v, None, 0.5).grad_fn.saved_tensors
    assert [tensor.dtype for tensor in kept if tensor is not None and tensor.shape[-1] == 7] == [torch.uint8]
