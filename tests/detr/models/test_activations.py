"""train.checkpoint_activations: less memory, and to the bit the same gradients, draws of dropout included."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from outcomes import CLOCKS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detr.config import RunConfig
from detr.criterion import SetCriterion
from detr.errors import InputError
from detr.models import build_model
from detr.models.activations import CheckpointedStack
from detr.setup import prepare
from detr.train import train

BOTH = pytest.mark.parametrize("checkpointed", ["backbone", "all"])
IMAGES, MASK = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
MASK[1, :, 70:] = True


def gradients(model: nn.Module, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of two micro-batches that are accumulated; the replica exchanges at the second."""
    model.zero_grad()
    criterion = SetCriterion(3)
    normalizers = criterion.normalizers(targets)
    for i in range(2):
        torch.manual_seed(i)
        with model.no_sync() if i == 0 and hasattr(model, "no_sync") else nullcontext():
            outputs = model(IMAGES[i : i + 1], MASK[i : i + 1])
            criterion.total(criterion(outputs, targets[i : i + 1], normalizers)).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, x in expected.items() if not torch.equal(found[name], x)] == []


@pytest.fixture
def pair(tiny_model):
    """Two models with the same weights, one of which checkpoints."""

    def build(checkpointed: str, **changes):
        config = tiny_model(dropout=0.3, num_encoder_layers=2, **changes)
        plain, other = build_model(config), build_model(config, checkpoint_activations=checkpointed)
        other.load_state_dict(plain.state_dict())
        return plain.train(), other.train()

    return build


@BOTH
@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_gradients_are_the_same_to_the_bit(pair, random_targets, checkpointed, backbone):
    plain, other = pair(checkpointed, backbone=backbone)
    targets = random_targets([3, 1])
    assert_equal(gradients(other, targets), gradients(plain, targets))


def test_which_parts_are_checkpointed(tiny_model):
    def stacks(value: str) -> set[str]:
        model = build_model(tiny_model(), checkpoint_activations=value)
        return {
            type(m).__name__ for m in model.modules() if isinstance(m, CheckpointedStack) and m.checkpoint_activations
        }

    assert stacks("none") == set()
    assert stacks("backbone") == {"SmallNetwork"}
    assert stacks("all") == {"SmallNetwork", "Encoder", "Decoder"}


def kept_bytes(model: nn.Module) -> int:
    """Size of what autograd keeps for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(IMAGES, MASK)  # held, so that no address is given out twice
    assert outputs
    return sum(kept.values())


def test_less_is_kept_the_more_is_checkpointed(tiny_model):
    none, backbone, everything = (
        kept_bytes(build_model(tiny_model(backbone_width=16, dropout=0.1), checkpoint_activations=value).train())
        for value in ("none", "backbone", "all")
    )
    assert backbone < 0.7 * none
    assert everything < 0.5 * backbone


@pytest.mark.parametrize("training", [True, False])
def test_layers_run_twice_in_training_alone(pair, training):
    _, model = pair("all")
    calls = []
    model.transformer.decoder.layers[0].linear1.register_forward_hook(lambda *_: calls.append(1))
    model.train(training)(IMAGES, MASK)["pred_boxes"].sum().backward()
    assert len(calls) == 1 + training


@BOTH
def test_replicas_of_several_processes_take_it(pair, random_targets, checkpointed):
    """One process with the hooks that DDP hangs on gradients, which must fire once for each parameter."""
    plain, other = pair(checkpointed)
    targets = random_targets([3, 1])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert_equal(gradients(DistributedDataParallel(other), targets), gradients(plain, targets))
    finally:
        dist.destroy_process_group()


def untimed(config: RunConfig) -> list[dict[str, float]]:
    return [{k: v for k, v in record.metrics.items() if k not in CLOCKS} for record in train(config)]


def test_a_run_is_the_same_run(tiny_run):
    """With dropout, over accumulated micro-batches."""
    model = prepare(tiny_run(train={"checkpoint_activations": "all"})).model
    assert model.transformer.encoder.checkpoint_activations
    assert untimed(tiny_run(train={"checkpoint_activations": "all"})) == untimed(tiny_run())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_model_has_the_same_gradients(pair, random_targets):
    """Of the traced step; inductor, whose kernels take minutes to build, is left out."""
    plain, other = pair("all", num_decoder_layers=1)
    targets = random_targets([3, 1])
    torch.compiler.reset()
    try:
        compiled = gradients(torch.compile(other, backend="aot_eager", dynamic=False), targets)
    finally:
        torch.compiler.reset()
    assert_equal({name.removeprefix("_orig_mod."): x for name, x in compiled.items()}, gradients(plain, targets))


def test_batch_norm_is_refused_with_the_reason(tiny_run):
    with pytest.raises(InputError, match=r"checkpoint_activations='backbone'.*running statistics .* twice"):
        tiny_run(model={"backbone_norm": "batch"}, train={"checkpoint_activations": "backbone"})
