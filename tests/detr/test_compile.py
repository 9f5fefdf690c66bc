"""train.compile: the same training. What is traced runs without inductor here, whose kernels take minutes to build."""

from collections.abc import Iterator

import pytest
import torch

from detr.config import RunConfig
from detr.errors import InputError
from detr.setup import prepare
from detr.train import train

# torch looks at what it warns of, and hides the warning from all but pytest
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture
def _traced(monkeypatch) -> Iterator[None]:
    """What one test compiles is not for the next."""
    torch.compiler.reset()
    inductor = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, options, dynamic: inductor(module, backend="aot_eager", dynamic=dynamic)
    )
    monkeypatch.setattr("detr.setup.check_compiler", lambda device: None)
    yield
    torch.compiler.reset()


def losses(config: RunConfig) -> list[dict[str, float]]:
    clocks = ("time", "seconds", "wait_fraction")
    return [{k: v for k, v in record.metrics.items() if not k.endswith(clocks)} for record in train(config)]


@pytest.mark.usefixtures("_traced")
def test_the_training_is_the_same(tiny_run):
    """Each further size of images, and dropout as CPUs draw it, would take many more seconds to trace."""
    settings = {"model": {"dropout": 0.0}, "data": {"augmentation": "none"}, "schedule": {"horizon": "2 steps"}}
    assert losses(tiny_run(**settings, train={"compile": True})) == losses(tiny_run(**settings))


@pytest.mark.usefixtures("_traced")
def test_the_weights_keep_their_names(tiny_run):
    setup = prepare(tiny_run(train={"compile": True}))
    assert setup.replica is not setup.model
    assert setup.model.state_dict().keys() == prepare(tiny_run()).model.state_dict().keys()


@pytest.mark.usefixtures("_traced")
def test_faults_of_the_input_stay_what_they_are(tiny_run):
    config = tiny_run(
        train={"compile": True}, model={"position_embedding": "learned"}, data={"max_size": 500, "image_size": 450}
    )
    with pytest.raises(InputError, match="exceeds the 50 learned positions"):
        list(train(config))


def test_a_missing_compiler_is_told_before_the_run(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/compiler"))
    with pytest.raises(InputError, match=r"train\.compile=true cannot be used .*/no/such/compiler.* leave it out"):
        prepare(tiny_run(train={"compile": True}))
