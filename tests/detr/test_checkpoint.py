"""Checkpoints: complete or absent, official names, and files that must not be trusted."""

import argparse
import logging
import pickle

import pytest
import torch
from safetensors.torch import save_file

from detr.checkpoint import (
    checkpoints,
    load_checkpoint,
    load_official,
    read_weights,
    save_checkpoint,
    save_weights,
)
from detr.errors import InputError
from detr.fidelity import GOLDEN, model_config, parse_arguments, read_cases
from detr.models import build_model


@pytest.fixture
def model(tiny_model):
    return build_model(tiny_model())


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# Our own


def test_round_trip_of_weights_and_state(tmp_path, model, tiny_model):
    state = {"step": 3, "rng": torch.get_rng_state(), "nested": {"a": [1.5, None]}}
    path = save_checkpoint(tmp_path, 3, model, state)
    other = build_model(tiny_model())
    found = load_checkpoint(path, other)
    assert equal(other.state_dict(), model.state_dict())
    assert found["nested"] == state["nested"]
    assert torch.equal(found["rng"], state["rng"])


def test_saving_a_step_again_replaces_the_state(tmp_path, model):
    """A run may be closed between a step and its evaluation, and evaluate after it resumed."""
    for evaluated in (0, 3):
        path = save_checkpoint(tmp_path, 3, model, {"evaluated": evaluated})
    assert load_checkpoint(path, model) == {"evaluated": 3}
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "state.pt"]


def test_the_latest_two_are_kept_in_order(tmp_path, model):
    for step in (1, 2, 10, 9_999_999):
        save_checkpoint(tmp_path, step, model, {})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000010", "step-09999999"]


def test_an_interrupted_save_is_not_taken_for_a_checkpoint(tmp_path, model, monkeypatch):
    save_checkpoint(tmp_path, 1, model, {})

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, model, {})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001"]
    save_checkpoint(tmp_path, 2, model, {})
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".unfinished"] == []


def test_weights_file_is_replaced_in_one_step(tmp_path, model, tiny_model):
    path = tmp_path / "best.safetensors"
    save_weights(path, model)
    save_weights(path, build_model(tiny_model()))
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
    assert not equal(read_weights(path), model.state_dict())


# The official format


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {
            "model": state,
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
            "epoch": 3,
            "args": argparse.Namespace(lr=1e-4, backbone="resnet50", masks=False, output_dir="", device="cuda"),
        },
    ],
    ids=["state dict", "public", "self-saved with args"],
)
def test_torch_files_in_the_official_format(tmp_path, model, tiny_model, wrap):
    path = tmp_path / "detr.pth"
    torch.save(wrap(model.state_dict()), path)
    other = build_model(tiny_model())
    assert load_official(other, read_weights(path)) == []
    assert equal(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("case", ["post_ln", "pre_ln"])
def test_names_and_shapes_are_the_official_ones(case):
    """A checkpoint of the official code has these names: all of them load, whatever our modules are called."""
    figures = read_cases(GOLDEN)[case]
    model = build_model(model_config(parse_arguments(figures["args"]), dropout=0))
    state = {name: torch.full(shape, 0.5) for name, shape in figures["state_dict_shapes"].items()}
    assert load_official(model, {"model": state}) == []
    assert all((x == 0.5).all() for x in model.state_dict().values())


def test_dict_with_model_is_unwrapped(model, tiny_model):
    other = build_model(tiny_model())
    load_official(other, {"model": model.state_dict()})
    assert equal(other.state_dict(), model.state_dict())


def test_class_head_of_another_size_stays_fresh_and_is_reported(model, tiny_model, caplog):
    other = build_model(tiny_model(num_classes=7))
    head = {name: x.clone() for name, x in other.state_dict().items() if name.startswith("class_embed")}
    with caplog.at_level(logging.WARNING):
        fresh = load_official(other, model.state_dict())
    assert sorted(fresh) == ["class_embed.bias", "class_embed.weight"]
    assert "for 3 classes and the model's for 7" in caplog.text
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, head[name] if name in head else model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_encoder_layers": 2}, r"lacks 12 names \(transformer.encoder.layers.1"),
        ({"num_decoder_layers": 1}, r"has 18 others \(transformer.decoder.layers.1"),
        ({"norm": "pre"}, r"lacks 2 names \(transformer.encoder.norm.bias"),
        ({"backbone": "resnet18"}, "it lacks .* backbone.0.body.bn1"),
        ({"num_queries": 6}, r"query_embed.weight is \(5, 16\) in the checkpoint and \(6, 16\) in the model"),
        ({"dim_feedforward": 64}, r"linear1.* is .* in the checkpoint"),
    ],
)
def test_another_model_is_refused_by_name_and_nothing_is_loaded(model, tiny_model, changes, named):
    other = build_model(tiny_model(**changes))
    before = {name: x.clone() for name, x in other.state_dict().items()}
    with pytest.raises(InputError, match=named):
        load_official(other, model.state_dict())
    assert equal(other.state_dict(), before)


# Files that are not checkpoints


class Bomb:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (type(self.victim).touch, (self.victim,))


@pytest.mark.parametrize("place", ["whole", "inside"])
def test_a_pickle_that_executes_code_does_not(tmp_path, model, place):
    victim, path = tmp_path / "executed", tmp_path / "bomb.pth"
    content = Bomb(victim)
    torch.save(content if place == "whole" else {"model": model.state_dict(), "args": content}, path)
    with pytest.raises(InputError, match=r"bomb\.pth: not a checkpoint of tensors alone"):
        read_weights(path)
    assert not victim.exists()
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"bomb\.pth"):
        read_weights(path)
    assert not victim.exists()


def test_allowing_the_namespace_lasts_for_the_reading_alone(tmp_path, model):
    path = tmp_path / "detr.pth"
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(lr=1)}, path)
    read_weights(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, model, suffix, share):
    path = tmp_path / f"half{suffix}"
    (torch.save if suffix == ".pth" else save_file)(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=f"half{suffix}: not a checkpoint"):
        read_weights(path)


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(3), {}, {"model": None}, {"model": {"a": 1}}, {"epoch": 3}, "text"]
)
def test_torch_files_without_a_state_dict_are_named(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"other\.pth: holds no state dict"):
        read_weights(path)


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(InputError, match="no such checkpoint file"):
            read_weights(path)
