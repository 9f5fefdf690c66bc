"""A user's own parts: those that do not fit are refused at the start, by setting, fault and remedy."""

import pytest
import torch

from detr.errors import InputError
from detr.extensions import load_object
from detr.setup import prepare


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "no_such_package.net:build",
            r"model\.target='no_such.*: there is no module no_such_package;",
        ),
        ("user_parts.inner:build", "there is no module user_parts"),
        ("user_parts:OneCel", r"user_parts\.py has no OneCel"),
        ("user_parts:NUMBER", "is int, not a function or class"),
    ],
)
def test_paths_that_lead_nowhere_are_named(path, message):
    with pytest.raises(InputError, match=message):
        load_object("model.target", path)


def test_a_fault_within_the_users_module_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_user_module.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load_object("model.target", "broken_user_module:build")


def test_a_sound_model_is_taken_with_its_options(tiny_run):
    setup = prepare(tiny_run(model={"target": "user_parts:OneCell", "options": {"fault": "none"}}))
    assert setup.model.fault == "none"
    assert {p.grad for p in setup.model.parameters()} == {None}  # the copies were tried


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("boxes", r"model\.target='user_parts:OneCell': pred_boxes are in 1.*, not in 0\.\.1"),
        ("classes", r"pred_logits is \(2, 1, 3\), not \(2, 1, 4\) as \(images, queries, values\)"),
        ("aux", r"aux_outputs\[0\]\['pred_boxes'\] is \(2, 1, 3\), not \(2, 1, 4\)"),
        (
            "missing",
            r"and aux_outputs, not \['pred_logits', 'pred_boxes'\]",
        ),
        ("tensor", "must return a dict .* not Tensor"),
    ],
)
def test_models_whose_outputs_do_not_fit_are_refused(tiny_run, fault, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny_run(model={"target": "user_parts:OneCell", "options": {"fault": fault}}))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"model": {"target": "user_parts:no_module"}}, r"gives str, not a torch\.nn\.Module"),
        (
            {"model": {"target": "user_parts:OneCell", "options": {"depth": 1}}},
            r"cannot be called with \(Mod",
        ),
        ({"optim": {"target": "user_parts:Forgetful", "options": {"momentum": 0.9}}}, "state_dict must hold all state"),
        (
            {"optim": {"target": "user_parts:Idle"}},
            r"'user_parts:Idle': an optimiser step changes no weight",
        ),
        ({"optim": {"target": "user_parts:NoState"}}, "the optimiser has no zero_grad"),
        (
            {"data": {"transform": "user_parts:brightness"}},
            r"'user_parts:brightness': two calls differ",
        ),
        ({"data": {"transform": "user_parts:floats"}}, r"of torch\.float32, not \(3, h, w\) of uint8"),
        ({"data": {"target": "user_parts:no_module"}}, r"data\.target='user_parts:no_module': cannot be called"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tiny_run, groups, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny_run(**groups))


def test_the_rehearsal_leaves_the_model_as_it_was(tiny_run):
    own = prepare(tiny_run(optim={"target": "torch.optim:SGD"})).model.state_dict()
    plain = prepare(tiny_run()).model.state_dict()
    assert all(torch.equal(own[name], plain[name]) for name in plain)
