"""Dropout with shared draws: rates, independence, mean, gradient, repeatability."""

import pytest
import torch

from detr.models.dropout import Dropout, draw_kept, drop, dropout, relu_dropout

N = 400_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_rate_and_mean(p):
    x = torch.ones(N)
    found = dropout(x, p)
    dropped = (found == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / N) ** 0.5
    assert found.max().item() == pytest.approx(1 / (1 - p), rel=2e-4)
    assert found.unique().numel() == 2


def test_rates_that_round_to_all_or_none():
    assert draw_kept(torch.Size([1000]), 1e-6).all()
    assert not draw_kept(torch.Size([1000]), 1 - 1e-6).all()


def test_elements_of_one_draw_are_independent():
    """Four elements share 64 bits: each of them, and each pair of neighbours, drops as often as it should."""
    kept = (dropout(torch.ones(N), 0.5) > 0).double().view(-1, 4)
    assert (kept.mean(0) - 0.5).abs().max() < 0.01
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.02


def test_the_scale_fits_the_rounded_rate():
    """Kept elements times the share that is kept give the mean back exactly, whatever the rounding."""
    p = 0.3
    share_kept = round((1 - p) * 2**16) / 2**16
    assert dropout(torch.ones(1000), p).max().item() == pytest.approx(1 / share_kept, rel=1e-7)


def test_gradient_passes_where_the_value_did():
    x = torch.randn(7, 5, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(out == 0, 0.0, 2.0))
    torch.testing.assert_close(out, x.detach() * x.grad)


def test_after_relu_it_is_the_same_and_keeps_its_output_alone():
    x, grad = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    torch.manual_seed(0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = relu_dropout(x, 0.5)
    torch.manual_seed(0)
    expected = drop(x.relu(), draw_kept(x.shape, 0.5), 0.5)
    assert torch.equal(found, expected)
    assert (found == 0).any()
    assert len(kept) == 1
    assert torch.equal(kept[0], found)
    assert torch.equal(*(torch.autograd.grad(y, x, grad)[0] for y in (found, expected)))
    assert torch.equal(relu_dropout(x.detach().clone(), 0.0), x.relu())


def test_repeatable_and_of_any_size():
    for shape in [(), (1,), (3,), (5, 7), (0, 4)]:
        torch.manual_seed(3)
        first = dropout(torch.ones(shape), 0.5)
        torch.manual_seed(3)
        assert torch.equal(first, dropout(torch.ones(shape), 0.5))
        assert first.shape == shape


def test_module_acts_in_training_alone():
    module, x = Dropout(0.5), torch.ones(100)
    assert (module.train()(x) == 0).any()
    assert module.eval()(x) is x
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_half_precision_keeps_its_type():
    out = dropout(torch.ones(1000, dtype=torch.bfloat16), 0.1)
    assert out.dtype == torch.bfloat16
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).bfloat16().item()}
