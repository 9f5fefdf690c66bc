"""The training step on a device against the CPU's float32: losses, gradients, norms, in every format."""

import pytest
import torch
from devices import CUDA, DEVICES

from detr.data.batch import collate
from detr.setup import Progress, Setup, prepare, train_loader
from detr.step import train_step

# Relative difference of losses and of the norm, and of all gradients together (Euclidean norm): twice what a CPU
# shows, 0.006 and 0.056 in bfloat16, 0.001 and 0.024 in float16, whose mantissa TF32 has.
TOLERANCES = {"float32": (1e-4, 1e-3), "tf32": (5e-3, 5e-2), "bfloat16": (2e-2, 1.2e-1), "float16": (5e-3, 5e-2)}
LOSSES = ("train/loss", "train/loss_ce", "train/loss_bbox", "train/loss_giou", "train/grad_norm")


def step(setup: Setup) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of a step over two micro-batches, and its gradients after clipping, flattened on the CPU."""
    gradients: list[torch.Tensor] = []
    setup.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.flatten().cpu() for p in setup.model.parameters() if p.requires_grad)
    )
    if setup.config.train.precision == "float16":  # its first factor would overflow, and leave the step out
        setup.scaler.load_state_dict(setup.scaler.state_dict() | {"scale": 2.0**8})
    samples = [setup.train_set[0, i] for i in range(4)]
    metrics = train_step(setup, Progress(), [collate(samples[:2]), collate(samples[2:])])
    return metrics, torch.cat(gradients)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Euclidean distance, relative to the expected one's norm."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_equals_that_of_the_cpu_in_float32(tiny_run, device, precision):
    if (device, precision) == ("cpu", "tf32"):
        pytest.skip("TF32 is a format of NVIDIA GPUs")
    expected, exact = step(prepare(tiny_run("cpu")))
    metrics, gradients = step(prepare(tiny_run(device, train={"precision": precision})))
    tolerance, of_gradients = TOLERANCES[precision]
    for key in LOSSES:
        assert metrics[key] == pytest.approx(expected[key], rel=tolerance), key
    assert distance(gradients, exact) < of_gradients


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", [CUDA])
def test_a_compiled_step_equals_one_that_is_not(tiny_run, device, precision):
    """On CPUs tests/detr/test_compile.py traces the step without building kernels, which takes minutes."""
    settings = {"precision": precision}
    expected, exact = step(prepare(tiny_run(device, train=settings)))
    metrics, gradients = step(prepare(tiny_run(device, train=settings | {"compile": True})))
    tolerance, of_gradients = TOLERANCES[precision]
    assert metrics["train/loss"] == pytest.approx(expected["train/loss"], rel=tolerance)
    assert distance(gradients, exact) < of_gradients


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_pinned_where_they_go_to_a_gpu(tiny_run, device):
    batch = next(iter(train_loader(prepare(tiny_run(device, data={"num_workers": 1})), 0)))
    targets = [target[key] for target in batch.targets for key in ("labels", "boxes")]
    assert {tensor.is_pinned() for tensor in (batch.images, batch.padding_mask, *targets)} == {device == "cuda"}
    moved = batch.to(torch.device(device))
    assert moved.images.device.type == device
    assert all(value.device.type == device for target in moved.targets for value in target.values())


@pytest.mark.parametrize("part", ["backbone", "all"])
@pytest.mark.parametrize("device", DEVICES)
def test_recomputed_activations_give_the_same_gradients(tiny_run, device, part):
    """With dropout, whose random numbers come again in the backward pass."""
    settings = {"model": {"dropout": 0.1}}
    expected, exact = step(prepare(tiny_run(device, **settings)))
    metrics, gradients = step(prepare(tiny_run(device, **settings, train={"checkpoint_activations": part})))
    assert metrics["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-6)
    assert distance(gradients, exact) < (1e-6 if device == "cpu" else 1e-3)
