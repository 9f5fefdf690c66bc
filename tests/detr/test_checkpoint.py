"""Checkpoints: complete or absent, official names, and files that must not be trusted."""

import argparse
import errno
import hashlib
import json
import logging
import pickle

import pytest
import torch
from safetensors.torch import save_file

from detr.checkpoint import (
    checkpoint_step,
    checkpoints,
    load_checkpoint,
    load_latest,
    load_official,
    read_weights,
    save_checkpoint,
    save_weights,
)
from detr.errors import InputError
from detr.fidelity.golden import GOLDEN, model_config, parse_arguments, read_cases
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


def test_a_step_that_is_saved_again_is_the_later_one(tmp_path, model):
    """A run may be closed between a step and its evaluation, and evaluate after it resumed."""
    for evaluated in (0, 3):
        save_checkpoint(tmp_path, 3, model, {"evaluated": evaluated})
    assert load_latest(tmp_path, model) == {"evaluated": 3}
    assert [checkpoint_step(p) for p in checkpoints(tmp_path)] == [3, 3]


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


# Damage


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "bit": flip_bit,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(tmp_path, model, tiny_model, caplog, damage, name):
    save_checkpoint(tmp_path, 1, model, {"best_AP": 0.25})
    latest = save_checkpoint(tmp_path, 2, build_model(tiny_model()), {"best_AP": 0.5})
    if (name, damage) == ("manifest.json", "bit"):
        (latest / name).write_text((latest / name).read_text().replace("a", "b"))  # a digit, not a space
    else:
        DAMAGE[damage](latest / name)
    other = build_model(tiny_model())
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path, other) == {"best_AP": 0.25}
    assert name in caplog.text and "resumes from the checkpoint before it" in caplog.text
    assert equal(other.state_dict(), model.state_dict())
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000001"]
    assert (tmp_path / "step-00000002.damaged").is_dir()


def test_without_a_sound_checkpoint_the_model_stays_as_it_was(tmp_path, model, tiny_model):
    flip_bit(save_checkpoint(tmp_path, 1, model, {}) / "state.pt")
    other = build_model(tiny_model())
    before = {name: x.clone() for name, x in other.state_dict().items()}
    assert load_latest(tmp_path, other) is None
    assert equal(other.state_dict(), before)


def test_a_fault_that_is_no_damage_sets_nothing_aside(tmp_path, model, monkeypatch):
    """Memory or file handles may be short for a moment; the checkpoint is good."""
    path = save_checkpoint(tmp_path, 1, model, {})
    for fault in (MemoryError(), OSError(errno.EMFILE, "too many open files")):
        with monkeypatch.context() as patch, pytest.raises(type(fault)):
            patch.setattr("detr.checkpoint._fingerprint", lambda _, fault=fault: (_ for _ in ()).throw(fault))
            load_latest(tmp_path, model)
    assert checkpoints(tmp_path) == [path]


@pytest.mark.parametrize("library", ["torch.save", "detr.checkpoint.save_file", "detr.checkpoint._flush"])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, model, monkeypatch, library):
    save_checkpoint(tmp_path, 1, model, {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(library, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 2, model, {})
    with pytest.raises(OSError, match="No space left"):
        monkeypatch.setattr("detr.checkpoint.save_file", full)
        save_weights(tmp_path / "best.safetensors", model)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert load_latest(tmp_path, model) == {}


@pytest.mark.parametrize("kilobytes", [16, 200])
def test_a_disk_that_is_really_full_is_called_so(small_disk, model, kilobytes):
    """The libraries' own errors do not say it: torch's is "unexpected pos 576 vs 534"."""
    disk = small_disk(kilobytes)
    for state in ({}, {"large": torch.zeros(100_000)}):
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(disk, 2, model, state | {"more": torch.zeros(100_000)})
    assert list(disk.iterdir()) == []


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
    assert "has 4 columns and the model's 8" in caplog.text
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


def test_a_crafted_checkpoint_executes_nothing_and_is_set_aside(tmp_path, model):
    victim = tmp_path / "executed"
    good = save_checkpoint(tmp_path, 1, model, {"best_AP": 0.25})
    bad = save_checkpoint(tmp_path, 2, model, {"best_AP": 0.5})
    torch.save(Bomb(victim), bad / "state.pt")
    content = (bad / "state.pt").read_bytes()
    manifest = json.loads((bad / "manifest.json").read_text())
    manifest["state.pt"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bad / "manifest.json").write_text(json.dumps(manifest))
    assert load_latest(tmp_path, model) == {"best_AP": 0.25}
    assert not victim.exists() and checkpoints(tmp_path) == [good]


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
    state = {name: x.contiguous() for name, x in model.state_dict().items()}
    (torch.save if suffix == ".pth" else save_file)(state, path)
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
