"""Dense attention against torch's own module, in evaluation and with dropout."""

import pytest
import torch
from torch import nn

from detr.models import attention
from detr.models.attention import MultiHeadAttention

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
    seen = []
    monkeypatch.setattr(attention, "dropout", lambda x, p: seen.append((x, p)) or x)
    torch.testing.assert_close(module(query, key, value, mask), expected)
    weights, p = seen[0]
    assert p == 0.5
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert mask is None or (weights[1, ..., 2:] == 0).all()
