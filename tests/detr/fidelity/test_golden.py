"""The official figures, and the command that shows them."""

import copy
import json
import math
import subprocess
import sys

import pytest
import torch

from detr.errors import InputError
from detr.fidelity import golden
from detr.fidelity.golden import (
    GOLDEN,
    compare,
    compare_values,
    draw_inputs,
    loss_config,
    model_config,
    parse_arguments,
)

CASES = golden.read_cases(GOLDEN)


@pytest.mark.parametrize("name", CASES)
def test_official_figures_are_matched(name):
    rows = compare(name, CASES[name])
    assert [f"{r.quantity}: {r.where} {r.difference}" for r in rows if not r.holds] == []
    assert len(rows) == 12
    assert all(r.num_values for r in rows)


@pytest.fixture
def as_recorded(monkeypatch):
    """Nothing is computed: the implementation is taken to give exactly the official figures of the file."""
    monkeypatch.setattr(golden, "measure", lambda _: copy.deepcopy(CASES["post_ln"]))


def written(tmp_path, **changes) -> str:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps({"case": {**copy.deepcopy(CASES["post_ln"]), **changes}}))
    return str(path)


def test_command_prints_every_quantity_and_succeeds(as_recorded, tmp_path, capsys):
    assert golden.main([written(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in ("case", "logits", "gradient norms", "step 3", "1e-04", "2e-03", "exact", "all within tolerance"):
        assert text in printed
    assert "off" not in printed.replace("official", "")


def later_step(difference: float, index: int) -> dict:
    steps = copy.deepcopy(CASES["post_ln"]["steps"])
    steps[index]["loss"] += difference
    return {"steps": steps}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"pred_logits_sum": CASES["post_ln"]["pred_logits_sum"] * (1 + 2e-4)}, 1),
        ({"pred_logits_sum": CASES["post_ln"]["pred_logits_sum"] * (1 + 5e-5)}, 0),
        (later_step(0.02, index=0), 1),  # of 77
        (later_step(0.02, index=2), 0),  # of 51, after two updates
        (later_step(0.2, index=2), 1),
        ({"trainable": CASES["post_ln"]["trainable"] + 1}, 1),
        ({"matched": [[[22, 75, 70], [0, 1, 2]], CASES["post_ln"]["matched"][1]]}, 1),
        ({"matched": [[[22, 70], [0, 1]], CASES["post_ln"]["matched"][1]]}, 1),  # a pair more than the official code
        ({"state_dict_shapes": {"transformer.encoder.norm.weight": [256]}}, 1),
        ({"pred_boxes_sum": math.nan}, 1),
    ],
)
def test_exit_code_tells_whether_a_figure_is_off(as_recorded, tmp_path, capsys, changes, code):
    assert golden.main([written(tmp_path, **changes)]) == code
    assert ("1 of 12 quantities are off" in capsys.readouterr().out) == (code == 1)


def test_difference_is_relative_and_names_its_place():
    row = compare_values("case", "losses", {"a": [1.0, 3.0], "b": 0.0}, {"a": [1.0, 3.4], "b": 0.05, "c": 9})
    assert (row.difference, row.where, row.num_values) == (pytest.approx(0.1), "a 1", 3)
    assert compare_values("case", "losses", {"a": 1.0}, {}).difference == math.inf
    assert not compare_values("case", "losses", {"a": 1.0, "b": 0.0}, {"a": math.nan, "b": 9.0}).holds


def test_class_error_of_a_case_without_objects_is_left_out():
    """The official code logs 100 there; here it is undefined."""
    case = {**CASES["pre_ln"], "num_boxes": [0, 0]}
    assert "class_error" not in golden.quantities(case)["losses"]
    assert "class_error" in golden.quantities(CASES["pre_ln"])["losses"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": ["--backbne", "resnet50"]}, "unrecognized arguments: --backbne"),
        ({"args": ["--masks"]}, "unrecognized arguments: --masks"),
        ({"args": ["--enc_layers", "six"]}, "--enc_layers: invalid int value: 'six'"),
        ({"args": ["--backbone", "vgg"]}, "model.backbone='vgg'"),
        ({"args": "--pre_norm"}, "args is '--pre_norm'"),
        ({"steps": []}, "steps must be"),
        ({"num_boxes": [1]}, "one entry an image"),
        ({"image_sizes": [[96], [80, 112]]}, "image_sizes must be pairs"),
        ({"matched": [[1, 2], [3, 4]]}, "matched must be pairs"),
        ({"clip": None}, "clip is None"),
        ({"pred_boxes_first3": [["a"]]}, "queries 0-2 0 0 is 'a', not a number"),
    ],
)
def test_broken_cases_are_named_with_exit_code_2(tmp_path, capsys, changes, message):
    assert golden.main([written(tmp_path, **changes)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"case": 3}', '{"case": {}}'])
def test_broken_files_are_named_with_exit_code_2(tmp_path, capsys, content):
    path = tmp_path / "figures.json"
    path.write_text(content)
    assert golden.main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_misnamed_file_as_a_command(tmp_path):
    command = [sys.executable, "-m", "detr.fidelity.golden", str(tmp_path / "nothing.json")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "nothing.json: there is no such file" in run.stderr
    assert "Traceback" not in run.stderr


def test_official_flags_reach_the_model_and_the_loss():
    flags = (
        "--backbone resnet101 --dilation --enc_layers 2 --dec_layers 3 --dim_feedforward 64 --hidden_dim 32 --nheads 4 "
        "--num_queries 7 --pre_norm --position_embedding learned --dataset_file coco_panoptic --no_aux_loss "
        "--set_cost_class 2 --set_cost_bbox 3 --set_cost_giou 4 --bbox_loss_coef 6 --giou_loss_coef 7 --eos_coef 0.2 "
        "--lr_backbone 0 --weight_decay 0.5 --batch_size 2"
    )
    arguments = parse_arguments(flags.split())
    model, loss = model_config(arguments, dropout=0), loss_config(arguments)
    assert (model.backbone, model.dilation, model.norm, model.position_embedding) == (
        "resnet101",
        True,
        "pre",
        "learned",
    )
    assert (model.num_encoder_layers, model.num_decoder_layers, model.dim_feedforward) == (2, 3, 64)
    assert (model.hidden_dim, model.num_heads, model.num_queries, model.num_classes) == (32, 4, 7, 250)
    assert (loss.cost_class, loss.cost_bbox, loss.cost_giou) == (2, 3, 4)
    assert (loss.weight_bbox, loss.weight_giou, loss.no_object_weight, loss.aux_loss) == (6, 7, 0.2, False)
    assert (arguments.lr_backbone, arguments.weight_decay) == (0, 0.5)


@pytest.mark.parametrize(
    "arguments",
    [
        "--backbone resnet18 --enc_layers 1 --dec_layers 1 --hidden_dim 64 --nheads 2 --num_queries 3",
        "--backbone resnet18 --enc_layers 0 --dec_layers 2 --position_embedding learned --no_aux_loss --lr_backbone 0",
    ],
)
def test_other_configurations_are_computed(arguments):
    """Fewer queries than objects, odd image sizes, an image without objects; figures of our own must agree with us."""
    case = {
        **CASES["post_ln"],
        "args": arguments.split(),
        "image_sizes": [[65, 33], [40, 97]],
        "num_boxes": [5, 0],
        "steps": [{}, {}],
    }
    figures = case | golden.measure(case)
    rows = compare("ours", figures)
    assert all(row.holds for row in rows)
    assert figures["steps"][0]["loss"] != figures["steps"][1]["loss"]


def test_inputs_follow_the_rules():
    images, targets = draw_inputs({"seed": 5, "image_sizes": [[3, 4], [2, 2]], "num_boxes": [2, 0]})
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(images[0], torch.randn(3, 3, 4, generator=generator))
    assert torch.equal(images[1], torch.randn(3, 2, 2, generator=generator))
    assert torch.equal(targets[0]["boxes"][:, :2], 0.2 + 0.6 * torch.rand(2, 2, generator=generator))
    assert targets[1]["boxes"].shape == (0, 4)


def test_unknown_flag_is_an_input_error_not_an_exit():
    with pytest.raises(InputError, match="--epoch"):
        parse_arguments(["--epoch", "3"])
