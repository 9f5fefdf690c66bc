"""train.compile: the same training. Inductor, whose kernels take minutes to build, is left out: what is traced runs as
torch's own operators.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from outcomes import CLOCKS

from detr.config import RunConfig
from detr.errors import InputError
from detr.models.resnet import Bottleneck, ResNet
from detr.setup import prepare
from detr.train import train

# torch looks at what it warns of, and hides the warning from all but pytest
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """What one test compiles is not for the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch) -> Callable[[str], None]:
    """Puts a backend in inductor's place."""
    inductor = torch.compile

    def put(backend: str) -> None:
        monkeypatch.setattr(
            torch, "compile", lambda model, dynamic, options: inductor(model, backend=backend, dynamic=dynamic)
        )
        monkeypatch.setattr("detr.setup.check_compiler", lambda device: None)

    return put


def untimed(config: RunConfig) -> list[dict[str, float]]:
    """The metrics of all records but the clocks'."""
    return [{k: v for k, v in record.metrics.items() if k not in CLOCKS} for record in train(config)]


def test_the_training_is_the_same(tiny_run, traced):
    """Each further size of images, and dropout as CPUs draw it, would take many more seconds to trace."""
    traced("aot_eager")
    settings = {"model": {"dropout": 0.0}, "data": {"augmentation": "none"}, "schedule": {"horizon": "2 steps"}}
    assert untimed(tiny_run(**settings, train={"compile": True})) == untimed(tiny_run(**settings))


def test_the_weights_keep_their_names(tiny_run, traced):
    traced("eager")
    setup = prepare(tiny_run(train={"compile": True}))
    assert setup.replica is not setup.model
    assert setup.model.state_dict().keys() == prepare(tiny_run()).model.state_dict().keys()


def test_faults_of_the_input_stay_what_they_are(tiny_run, traced):
    traced("eager")
    config = tiny_run(
        train={"compile": True}, model={"position_embedding": "learned"}, data={"max_size": 500, "image_size": 450}
    )
    with pytest.raises(InputError, match="exceeds the 50 learned positions"):
        list(train(config))


def test_a_residual_network_is_one_graph_for_all_sizes():
    """In bfloat16, where a CPU has the library compute the gradients of convolutions, as GPUs do."""
    network = ResNet(Bottleneck, [1, 2, 1, 1])
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(network, backend=count, dynamic=True, fullgraph=True)
    for height, width in ((64, 96), (96, 128)):
        gradients = []
        for model in (network, compiled):
            network.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                features = model(torch.full((1, 3, height, width), 0.5))
            features[-1].float().mean().backward()
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        for found, expected in zip(gradients[1], gradients[0], strict=True):
            torch.testing.assert_close(found, expected)
    assert len(graphs) == 1


def test_a_missing_compiler_is_told_before_the_run(tiny_run, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/such/compiler"))
    with pytest.raises(InputError, match=r"train\.compile=true cannot be used .*/no/such/compiler.* leave it out"):
        prepare(tiny_run(train={"compile": True}))
