"""The folded ResNets against torchvision's own, in double precision: features, gradients, names."""

import pytest
import torch
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from detr.models.resnet import RESNETS, ResNet, conv_norm


def pair(name: str, dilation: bool = False) -> tuple[ResNet, torch.nn.Module]:
    """Ours and torchvision's with the same random weights and statistics."""
    ours = ResNet(*RESNETS[name], dilation=dilation).double()
    kept = {"replace_stride_with_dilation": [False, False, True]} if dilation else {}
    theirs = getattr(models, name)(norm_layer=FrozenBatchNorm2d, **kept).double()
    generator = torch.Generator().manual_seed(0)
    for key, buffer in theirs.named_buffers():
        noise = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
        buffer.copy_(0.5 + noise if key.endswith(("var", "weight")) else noise - 0.5)
    for parameter in theirs.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator).double() / parameter[0].numel() ** 0.5)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    return ours, theirs


def features(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


@pytest.mark.parametrize(
    ("name", "dilation"), [("resnet18", False), ("resnet34", False), ("resnet50", False), ("resnet50", True)]
)
def test_features_and_gradients_are_those_of_conv_then_norm(name, dilation):
    ours, theirs = pair(name, dilation)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found, expected = ours(x), features(theirs, x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    for output in (found, expected):
        (output * weights).sum().backward()
    gradients = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(ours.parameters()))
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key])


def test_frozen_stages_leave_no_graph():
    ours, _ = pair("resnet18")
    for key, parameter in ours.named_parameters():
        parameter.requires_grad_(not key.startswith(("conv1", "layer1")))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    seen = []
    ours.layer1.register_forward_hook(lambda _m, _i, output: seen.append(output.requires_grad))
    assert ours(x).requires_grad
    assert seen == [False]


def test_scaled_weights_are_not_kept_for_the_backward_pass():
    block = pair("resnet18")[0].layer4[1]
    x = torch.randn(1, 512, 4, 4, dtype=torch.float64, requires_grad=True)
    kept = [
        tensor.data_ptr() for tensor in conv_norm(x, block.conv2, block.bn2).grad_fn.saved_tensors if tensor.dim() == 4
    ]
    assert kept == [x.data_ptr(), block.conv2.weight.data_ptr()]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_network_computes_the_same_without_gradients(name):
    ours, _ = pair(name)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        found = ours(x)
    assert torch.equal(found, ours(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_without_gradients_nothing_is_kept_for_them(frozen, monkeypatch):
    ours, _ = pair("resnet50")
    monkeypatch.setattr("detr.models.resnet.bottlenecks", lambda *_: pytest.fail("keeps features until it returns"))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    if frozen:
        ours.requires_grad_(False)(x)
    else:
        with torch.no_grad():
            ours(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_images_of_another_type_are_refused(dtype):
    ours, _ = pair("resnet50")
    with pytest.raises(RuntimeError, match="should be the same"):
        ours(torch.ones(1, 3, 64, 64, dtype=dtype))


def test_layer2_computes_features_again():
    """Its input, one map of the block with a stride, two of each of the others, and its output are kept."""
    ours, _ = pair("resnet50")
    kept: list[tuple[int, ...]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 4 and tensor.shape[-1] > 3:  # no weight
            kept.append(tuple(tensor.shape))
        return tensor

    x = ours.layer1(ours.maxpool(conv_norm(torch.randn(1, 3, 64, 64).double(), ours.conv1, ours.bn1)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ours.layer2(x)
    assert kept == [(1, 256, 16, 16), *[(1, 128, 8, 8)] * 7, (1, 512, 8, 8)]
