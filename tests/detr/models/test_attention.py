"""Dense attention against softmax(q k) v written out, in evaluation and with dropout."""

import math

import pytest
import torch
from torch import nn

from detr.models.attention import MultiHeadAttention
from detr.models.memory import Memory
from detr.models.queries import Queries

PADDING = torch.tensor([[False] * 6, [False] * 2 + [True] * 4])


def tokens(mask: torch.Tensor | None) -> tuple[Queries, Memory]:
    """Five queries and six tokens of two images, 8 channels."""
    content, position = (torch.randn(2, 5, 8, dtype=torch.float64) for _ in range(2))
    seen, places = (torch.randn(2, 6, 8, dtype=torch.float64) for _ in range(2))
    return Queries(content, position), Memory(seen, places, mask)


def with_random_biases(module: MultiHeadAttention) -> MultiHeadAttention:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def written_out(module: MultiHeadAttention, queries: Queries, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (B, Q, d) and weights (B, heads, Q, T); the position goes to queries and keys, not to values."""
    inputs = queries.tokens + queries.position, memory.tokens + memory.position, memory.tokens
    parts = zip(inputs, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True)
    q, k, v = ((x @ w.T + b).unflatten(-1, (2, 4)).transpose(1, 2) for x, w, b in parts)
    scores = q @ k.transpose(-2, -1) / math.sqrt(4)
    if memory.padding_mask is not None:
        scores = scores.masked_fill(memory.padding_mask[:, None, None], float("-inf"))
    weights = scores.softmax(-1)
    out = (weights @ v).transpose(1, 2).flatten(2)
    return out @ module.out_proj.weight.T + module.out_proj.bias, weights


MASKS = pytest.mark.parametrize("mask", [None, PADDING], ids=["no padding", "padding"])


@MASKS
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_those_of_the_formula(mask, training):
    module = with_random_biases(MultiHeadAttention(8, 2, dropout=0.0)).train(training)
    queries, memory = tokens(mask)
    expected, weights = written_out(module, queries, memory)
    found = module(queries, memory)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module.weights(queries, memory), weights)
    grad = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, list(module.parameters()), grad) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


@MASKS
def test_dropout_of_the_weights_acts_in_training_alone_and_keeps_the_mean(mask):
    module = with_random_biases(MultiHeadAttention(8, 2, dropout=0.3))
    queries, memory = tokens(mask)
    expected, _ = written_out(module, queries, memory)
    torch.testing.assert_close(module.eval()(queries, memory), expected)
    draws = torch.stack([module.train()(queries, memory) for _ in range(4000)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert (error > 0).all()
    assert ((draws.mean(0) - expected).abs() < 5 * error).all()


def test_weights_sum_to_one_over_valid_tokens():
    queries, memory = tokens(PADDING)
    weights = MultiHeadAttention(8, 2, 0.0).double().weights(queries, memory)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert (weights[1, ..., 2:] == 0).all()


def test_half_precision_trains_as_float32_does_but_for_rounding():
    module, results = with_random_biases(MultiHeadAttention(8, 2, dropout=0.0)).float(), {}
    queries, memory = tokens(PADDING)
    queries = Queries(queries.tokens.float(), queries.position.float())
    memory = Memory(memory.tokens.float(), memory.position.float(), PADDING)
    for dtype in (torch.float32, torch.bfloat16):
        module.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            out = module(queries, memory)
        out.float().square().sum().backward()
        results[dtype] = [out.float(), *(p.grad for p in module.parameters())]
    for rough, exact in zip(results[torch.bfloat16], results[torch.float32], strict=True):
        torch.testing.assert_close(rough, exact, rtol=0, atol=0.03 * exact.abs().max().item())
