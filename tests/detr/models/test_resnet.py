"""The folded ResNets against torchvision's own, in double precision: features, gradients, names."""

import pytest
import torch
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from detr.models.resnet import RESNETS, ResNet


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
    (found,), expected = ours(x), features(theirs, x)
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
    assert ours(x)[-1].requires_grad
    assert seen == [False]


@pytest.mark.parametrize(("name", "count"), [("resnet18", 20), ("resnet50", 53)])
def test_hooks_of_every_convolution_fire_and_see_its_output_with_the_norm(name, count):
    """As profilers and Grad-CAM need them: once each, and nothing overwrites what they keep."""
    ours, theirs = pair(name)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    outputs: dict[str, list[torch.Tensor]] = {}
    for network, kind in ((ours, torch.nn.Conv2d), (theirs, FrozenBatchNorm2d)):
        for key, module in network.named_modules():
            if isinstance(module, kind):
                key = key.replace("bn", "conv").replace("downsample.1", "downsample.0")
                module.register_forward_hook(lambda _m, _i, y, key=key: outputs.setdefault(key, []).append(y.clone()))
    kept: list[torch.Tensor] = []
    for module in ours.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, y: kept.append(y))
    ours(x)
    seen = [values[0] for values in outputs.values()]
    assert len(kept) == count
    assert all(torch.equal(a, b) for a, b in zip(seen, kept, strict=True))
    features(theirs, x)
    assert [len(values) for values in outputs.values()] == [2] * count
    for key, (found, expected) in outputs.items():
        torch.testing.assert_close(found, expected, msg=key)


def test_gradients_of_a_hooked_convolution_are_seen():
    ours, _ = pair("resnet18")
    seen = []
    for module in ours.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_full_backward_hook(lambda _m, _i, grads: seen.append(grads[0]))
    ours(torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True))[-1].sum().backward()
    assert len(seen) == 20
    assert all(torch.isfinite(grad).all() and grad.any() for grad in seen)


def test_the_weights_that_a_convolution_folds_stay_as_they_are():
    ours, _ = pair("resnet18")
    before = {key: x.clone() for key, x in ours.state_dict().items()}
    ours(torch.randn(1, 3, 64, 64, dtype=torch.float64))[-1].sum().backward()
    assert all(torch.equal(x, before[key]) for key, x in ours.state_dict().items())
    assert ours.conv1.bias is None


@pytest.mark.parametrize("num_levels", [1, 3, 4])
def test_levels_are_the_last_stages(num_levels):
    stages = []
    ours = ResNet(*RESNETS["resnet18"], num_levels=num_levels)
    for stage in (ours.layer1, ours.layer2, ours.layer3, ours.layer4):
        stage.register_forward_hook(lambda _m, _i, y: stages.append(y))
    levels = ours(torch.randn(1, 3, 64, 96))
    assert len(levels) == num_levels
    assert all(a is b for a, b in zip(levels, stages[-num_levels:], strict=True))
    assert ours.num_channels == [level.shape[1] for level in levels]
    assert ours.strides == [64 // level.shape[2] for level in levels] == [96 // level.shape[3] for level in levels]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_images_of_another_type_are_refused(dtype):
    ours, _ = pair("resnet50")
    with pytest.raises(RuntimeError, match="should be the same"):
        ours(torch.ones(1, 3, 64, 64, dtype=dtype))
