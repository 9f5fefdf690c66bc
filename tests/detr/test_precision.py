"""Formats of the training step: the same step as in float32, and what float16 needs."""

import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from detr.criterion import SetCriterion
from detr.data.batch import collate
from detr.errors import InputError
from detr.models import build_model
from detr.optim import clip_gradients
from detr.precision import set_tf32
from detr.seeds import seed_dropout
from detr.setup import Progress, Setup, prepare
from detr.step import NonFiniteLoss, train_step
from detr.train import train


def step(setup: Setup, progress: Progress) -> dict[str, float]:
    return train_step(setup, progress, [collate([setup.train_set[0, i] for i in pair]) for pair in ((0, 1), (2, 3))])


def weights(setup: Setup) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in setup.model.parameters()])


@pytest.fixture
def prepared(tiny_run):
    """A setup in a precision, whose loss in float16 is multiplied by a factor to begin with."""

    def build(precision: str, factor: float = 2.0**8) -> Setup:
        setup = prepare(tiny_run(train={"precision": precision}, model={"dropout": 0.0}, optim={"clip_norm": 0.5}))
        if precision == "float16":
            setup.scaler.load_state_dict(setup.scaler.state_dict() | {"scale": factor})
        return setup

    return build


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_a_step_is_that_of_float32_but_for_rounding(prepared, precision, tolerance):
    """Also the norm that is logged: float16's is measured, and clipped, without the factor."""
    exact = step(prepared("float32"), Progress())
    rough = step(prepared(precision), Progress())
    rough.pop("train/skipped_steps", None)
    assert rough.keys() == exact.keys()
    for key in ("train/loss", "train/loss_ce", "train/loss_bbox", "train/loss_giou", "train/grad_norm"):
        assert rough[key] == pytest.approx(exact[key], rel=tolerance), key
        assert rough[key] != exact[key], key
    assert rough["train/clip_scale"] == pytest.approx(exact["train/clip_scale"], rel=tolerance)
    assert 0 < exact["train/clip_scale"] < 1


def test_the_factor_of_float16_has_no_part_in_the_update(prepared):
    """The same weights whatever the factor. If clipping came before the division by it, they would differ."""
    small, large = prepared("float16", 2.0**4), prepared("float16", 2.0**7)
    first, second = step(small, Progress()), step(large, Progress())
    assert second["train/grad_norm"] == pytest.approx(first["train/grad_norm"], rel=1e-3)
    assert (weights(small) - weights(large)).abs().mean() < 1e-6  # of updates of 1e-3
    assert first["train/skipped_steps"] == 0


def test_steps_that_overflow_are_left_out_and_counted(prepared):
    setup, progress = prepared("float16", 2.0**40), Progress()
    before = weights(setup)
    metrics = step(setup, progress)
    assert torch.equal(weights(setup), before)
    assert metrics["train/skipped_steps"] == 1
    assert "train/grad_norm" not in metrics and "train/clip_fraction" not in metrics
    assert setup.scaler.get_scale() == 2.0**39
    setup.scaler.load_state_dict(setup.scaler.state_dict() | {"scale": 2.0**4})
    metrics = step(setup, progress)
    assert not torch.equal(weights(setup), before)
    assert (metrics["train/skipped_steps"], metrics["train/clip_fraction"]) == (1, 1)  # of the steps that were taken
    assert len(progress.norms) == 1


def test_a_gradient_that_no_factor_saves_stops_the_run(prepared):
    setup = prepared("float16", 1.0)
    setup.model.query_embed.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*gradient norm (nan|inf)"):
        step(setup, Progress())


def test_resuming_float16_is_exact(tiny_run, tmp_path):
    """Its first factor overflows, so the run has steps left out and factors of its own."""
    config = tiny_run(train={"precision": "float16"}, schedule={"horizon": "8 steps"})
    whole = [r.metrics for r in train(config)]
    run = train(config, tmp_path)
    parts = [r.metrics for r in itertools.islice(run, 3)]
    run.close()
    parts += [r.metrics for r in train(config, tmp_path)]
    assert whole[0]["train/skipped_steps"] == 1
    for key in ("train/loss", "train/skipped_steps", "train/clip_scale", "val/loss"):
        assert [m.get(key) for m in parts] == [m.get(key) for m in whole], key


def test_tf32_is_refused_where_no_gpu_has_it(tiny_run):
    with pytest.raises(InputError, match=r"train\.precision='tf32'.* train\.device is cpu"):
        prepare(tiny_run(train={"precision": "tf32", "device": "cpu"}))


def test_tf32_is_set_and_unset():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            set_tf32(allowed)
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_dropout_is_seeded_as_torch_would():
    torch.manual_seed(7)
    expected = torch.rand(5)
    seed_dropout(torch.device("cpu"), 7)
    assert torch.equal(torch.rand(5), expected)


def test_a_step_needs_no_value_on_the_host_but_the_matches(tiny_model, random_targets):
    """On a GPU each one would wait for all work so far. On tensors without values it is an error."""
    model, criterion, targets = build_model(tiny_model(dropout=0.1)), SetCriterion(3), random_targets([3, 0, 1])
    criterion.matcher.assign = lambda *_: np.array([[[0, 1, 2, 4], [1, 0, 2, 0]]] * 2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def unknown(x: torch.Tensor) -> torch.Tensor:
            return mode.from_tensor(x.detach())

        weights = {name: unknown(p).requires_grad_() for name, p in model.named_parameters()}
        optimizer = torch.optim.AdamW(weights.values(), fused=True)
        inputs = unknown(torch.randn(3, 3, 32, 32)), unknown(torch.zeros(3, 32, 32, dtype=torch.bool))
        outputs = torch.func.functional_call(model, weights, inputs)
        losses = criterion(outputs, [{k: unknown(v) for k, v in t.items()} for t in targets])
        criterion.total(losses).backward()
        norm = clip_gradients(weights.values(), 0.1)
        optimizer.step()
        with pytest.raises(DataDependentOutputException):
            norm.item()
