"""Diagnostics: each formula against a slow or a hand-computed reference, and a run that does not notice them."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from detr.checkpoint import checkpoints, load_checkpoint, read_weights
from detr.config import EvaluationConfig, TrainConfig
from detr.data.batch import Batch, collate, pad_images
from detr.data.transforms import normalize
from detr.diagnostics.formulas import (
    Variance,
    as_metrics,
    assigned_targets,
    attention_entropy,
    copy_weights,
    duplicates,
    gradient_norms,
    instability,
    prediction_variance,
    update_ratios,
)
from detr.diagnostics.watch import ValidationWatch
from detr.errors import InputError
from detr.evaluation import evaluate_coco, predict_dataset, validation_loader
from detr.matcher import HungarianMatcher
from detr.models import build_model
from detr.optim import build_optimizer
from detr.setup import prepare
from detr.train import Record, train

CLOCKS = ("train/data_time", "train/step_time", "train/wait_fraction", "val/seconds")


def metrics_of(records: list[Record]) -> list[dict[str, float]]:
    return [{k: v for k, v in r.metrics.items() if k not in CLOCKS} for r in records]


# Steps


def test_update_ratio_is_that_of_each_groups_concatenated_weights():
    model = nn.ModuleDict({"backbone": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, lr=0.1, backbone_lr=0.01, weight_decay=0.0)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    before = copy_weights(optimizer)
    model["head"](model["backbone"](torch.ones(1, 3))).sum().backward()
    optimizer.step()
    ratios = update_ratios(optimizer, before)
    for group, part in (("main", "head"), ("backbone", "backbone")):
        names = [name for name in old if name.startswith(part)]
        weight = torch.cat([old[n].flatten() for n in names])
        update = torch.cat([model.get_parameter(n).detach().flatten() for n in names]) - weight
        assert ratios[f"update_ratio_{group}"] == pytest.approx((update.norm() / weight.norm()).item(), rel=1e-6)


def test_groups_without_weights_have_no_update_ratio():
    model = nn.ModuleDict({"head": nn.Linear(2, 2)})
    optimizer = build_optimizer(model, lr=0.1, backbone_lr=0.1, weight_decay=0.0)
    assert update_ratios(optimizer, copy_weights(optimizer)) == {"update_ratio_main": 0}
    nn.init.zeros_(model["head"].weight)
    nn.init.zeros_(model["head"].bias)
    assert update_ratios(optimizer, copy_weights(optimizer)) == {}


def test_gradient_norms_are_summarised_by_logarithms_of_their_quantiles():
    norms = [10.0**i for i in range(-2, 3)]
    found = gradient_norms(norms)
    assert found["grad_norm_log10_median"] == pytest.approx(0)
    assert found["grad_norm_log10_p95"] == pytest.approx(math.log10(np.quantile(norms, 0.95)))
    assert gradient_norms([]) == {}
    assert gradient_norms([0.0, 0.0]) == {}
    assert gradient_norms([100.0]) == {"grad_norm_log10_median": 2, "grad_norm_log10_p95": 2}


# Attention


def test_entropy_against_loops():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    logits = torch.randn(2, 3, 5, 6, generator=generator).masked_fill(mask[:, None, None], -torch.inf)
    weights = logits.softmax(-1)
    expected = []
    for image, valid in ((0, 6), (1, 4)):
        rows = weights[image].reshape(-1, 6).tolist()
        nats = [-sum(p * math.log(p) for p in row if p > 0) for row in rows]
        expected.append(sum(nats) / len(nats) / math.log(valid))
    assert attention_entropy(weights, mask).tolist() == pytest.approx(expected, rel=1e-5)


def test_entropy_is_one_for_even_and_zero_for_single_attention():
    mask = torch.tensor([[False, False, False, True]])
    even = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]).expand(1, 2, 5, 4)
    single = torch.tensor([0.0, 1, 0, 0]).expand(1, 2, 5, 4)
    assert attention_entropy(even, mask).item() == pytest.approx(1)
    assert attention_entropy(single, mask).item() == 0
    one_token = attention_entropy(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, dtype=torch.bool))
    assert one_token.isnan().all()


# Matching


def test_assigned_targets_and_their_changes_by_hand():
    def match(*pairs: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T)

    matches = [[match((0, 1), (2, 0)), match()], [match((0, 1), (3, 0)), match((1, 0))]]
    assigned = assigned_targets(matches, num_queries=4)
    assert assigned.tolist() == [[[1, -1, 0, -1], [-1, -1, -1, -1]], [[1, -1, -1, 0], [-1, 0, -1, -1]]]
    # first image: queries 2 and 3; second image: query 1
    assert instability(assigned[0], assigned[1]).item() == 1.5
    assert instability(assigned[0], assigned[0]).item() == 0
    assert instability(assigned[:-1], assigned[1:]).tolist() == [1.5]
    assert instability(assigned[:0], assigned[:0]).tolist() == []


def test_swapped_objects_and_a_moved_object_both_count_two_queries():
    before = torch.tensor([[0, 1, -1]])
    assert instability(before, torch.tensor([[1, 0, -1]])).item() == 2
    assert instability(before, torch.tensor([[0, -1, 1]])).item() == 2


# Detections


def test_duplicates_against_loops():
    def overlap(a: list[float], b: list[float]) -> float:
        w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
        areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return w * h / (sum(areas) - w * h)

    scores, labels = torch.rand(20, 12), torch.randint(2, (20, 12))
    corner = torch.rand(20, 12, 2) * 0.3
    boxes = torch.cat([corner, corner + 0.3 + 0.3 * torch.rand(20, 12, 2)], dim=-1)
    expected = 0
    for s, c, b in zip(scores.tolist(), labels.tolist(), boxes.tolist(), strict=True):
        for i in range(12):
            better = [j for j in range(12) if s[j] > s[i] > 0.5 and c[j] == c[i]]
            expected += any(overlap(b[j], b[i]) > 0.5 for j in better)
    assert duplicates(scores, labels, boxes) == ((scores > 0.5).sum().item(), expected)
    assert expected > 10


def test_of_equal_detections_all_but_one_are_duplicates():
    boxes, one_class = torch.tensor([[0.0, 0, 1, 1]]).expand(2, 4, 4), torch.zeros(2, 4)
    assert duplicates(torch.full((2, 4), 0.9), one_class, boxes) == (8, 6)
    assert duplicates(torch.full((2, 4), 0.5), one_class, boxes) == (0, 0)
    assert duplicates(torch.full((2, 4), math.nan), one_class, boxes) == (0, 0)
    assert duplicates(torch.full((2, 4), 0.9), torch.arange(4).expand(2, 4), boxes) == (8, 0)
    assert duplicates(torch.full((2, 4), 0.9), one_class, torch.zeros(2, 4, 4)) == (8, 0)  # boxes without area


# Collapse


def gathered(values: torch.Tensor, size: int = 3) -> Variance:
    variance = Variance()
    for part in values.split(size):
        variance.add(part)
    return variance


def test_variance_over_batches_is_that_of_all_images():
    values = torch.rand(10, 4, 3)
    found = gathered(values)
    assert found.count == 10
    expected = np.var(values.double().numpy(), axis=0).sum(-1)
    np.testing.assert_allclose(found.total.numpy(), expected, rtol=1e-10)


def test_the_same_prediction_for_every_image_has_no_variance():
    boxes, classes = gathered(torch.rand(1, 5, 4).expand(8, 5, 4)), gathered(torch.rand(1, 5, 3).expand(8, 5, 3))
    found = prediction_variance(boxes, classes, gathered(torch.rand(9, 4)))
    assert found == pytest.approx({"prediction_variance_boxes": 0, "prediction_variance_classes": 0}, abs=1e-12)
    sure = gathered(torch.tensor([[[0.0, 0, 1]]]).expand(8, 5, 3))  # always no-object, to the last bit
    assert prediction_variance(boxes, sure, gathered(torch.rand(9, 4)))["prediction_variance_classes"] == 0


def test_predictions_that_vary_like_the_objects_have_variance_one():
    objects = torch.rand(8, 4)
    decisions = nn.functional.one_hot(torch.arange(8) % 3, 3)[:, None].float()  # (8, 1, 3)
    boxes = gathered(objects[:, None].expand(8, 5, 4))  # every query on the image's object
    found = prediction_variance(boxes, gathered(decisions.expand(8, 5, 3)), gathered(objects))
    assert found == pytest.approx({"prediction_variance_boxes": 1, "prediction_variance_classes": 1})


def test_variance_against_a_reference():
    boxes, objects = torch.rand(6, 5, 4), torch.rand(11, 4)
    classes = torch.randn(6, 5, 3).softmax(-1)
    found = prediction_variance(gathered(boxes), gathered(classes), gathered(objects))
    b, c, o = (x.double().numpy() for x in (boxes, classes, objects))
    assert found["prediction_variance_boxes"] == pytest.approx(np.var(b, 0).sum(-1).mean() / np.var(o, 0).sum())
    mean = c.mean(0)
    assert found["prediction_variance_classes"] == pytest.approx(np.var(c, 0).sum() / (mean * (1 - mean)).sum())


def test_one_image_or_one_object_has_no_variance_to_tell():
    one, many = gathered(torch.rand(1, 5, 4)), gathered(torch.rand(3, 5, 4))
    assert prediction_variance(one, gathered(torch.rand(1, 5, 3)), gathered(torch.rand(4, 4))) == {}
    found = prediction_variance(many, gathered(torch.rand(3, 5, 3)), gathered(torch.rand(1, 4)))
    assert found.keys() == {"prediction_variance_classes"}


def test_what_is_undefined_or_overflowed_stays_out_of_the_record():
    assert as_metrics({"a": 1.0, "b": math.nan, "c": math.inf}) == {"diagnostics/a": 1.0}


# A validation pass


@pytest.fixture
def watched(tiny_run):
    """Run a validation pass of a model under watch: (watch, setup, loader); keywords change the model."""

    def run(prepare_model=lambda model: None, keep_layers=False, probe_images=2, batch_size=2, **model):
        config = tiny_run(model=model, evaluation={"batch_size": batch_size})
        setup = prepare(config)
        prepare_model(setup.model)
        loader = validation_loader(setup.val_set, config.data, config.evaluation)
        watch = ValidationWatch(setup.model, setup.criterion.matcher, setup.val_set, probe_images, keep_layers)
        with watch:
            detections, _ = predict_dataset(setup.model, loader, setup.criterion, setup.device, watch)
        return watch, setup, loader, detections

    return run


def test_signals_of_a_pass_against_the_model_run_image_by_image(watched):
    watch, setup, _, detections = watched()
    signals = watch.signals(None)
    matched, no_object, images = [], [], [setup.val_set[0, i] for i in range(3)]
    for image, target in images:
        with torch.no_grad():
            images, mask, _ = collate([(image, target)])
            outputs = setup.model.eval()(normalize(images, mask), mask)
        layers = [*outputs["aux_outputs"], outputs]
        rows = []
        for layer in layers:
            row = torch.full((8,), -1)
            ((query, found),) = HungarianMatcher()(layer, [target])
            row[query] = found
            rows.append(row)
        matched.append(torch.stack(rows))
        no_object.append(outputs["pred_logits"].softmax(-1)[0, :, -1])
    matched, no_object = torch.stack(matched), torch.stack(no_object)  # (N, L, Q), (N, Q)
    assert watch.matching.tolist() == matched[:, -1].tolist()
    used = matched[:, -1] >= 0
    assert signals["layer_instability_0"] == pytest.approx((matched[:, 0] != matched[:, 1]).sum().item() / 3)
    assert signals["query_use"] == pytest.approx(len({q for row in used for q in row.nonzero().flatten().tolist()}) / 8)
    assert signals["no_object_matched"] == pytest.approx(no_object[used].mean().item(), rel=1e-5)
    assert signals["no_object_unmatched"] == pytest.approx(no_object[~used].mean().item(), rel=1e-5)
    assert "matching_instability" not in signals
    moved = watch.matching.clone()
    moved[0, 0] += 1
    assert watch.signals(moved)["matching_instability"] == pytest.approx(1 / 3)
    assert watch.signals(watch.matching)["matching_instability"] == 0
    assert [d["query"] for d in detections] == [*range(8)] * 3


def test_entropy_is_that_of_the_weights_which_the_probe_images_get(watched):
    watch, setup, _, _ = watched(probe_images=2, batch_size=3)
    assert len(watch.probes) == 2
    expected = []
    for image, target in (setup.val_set[0, i] for i in range(3)):
        if target["image_id"] in watch.probes:
            inputs = []
            attention = setup.model.transformer.decoder.layers[1].multihead_attn
            handle = attention.register_forward_pre_hook(lambda _m, args, inputs=inputs: inputs.append(args))
            with torch.no_grad():
                images, mask, _ = collate([(image, target)])
                setup.model.eval()(normalize(images, mask), mask)
                weights = attention.weights(*inputs[0])
            handle.remove()
            expected.append(-(weights * weights.log()).sum(-1).mean().item() / math.log(weights.shape[-1]))
    signals = watch.signals(None)
    assert signals["attention_entropy_1"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert 0 < signals["attention_entropy_0"] <= 1


def test_padding_is_no_place_to_look(tiny_model, random_targets):
    """Attention that is even over what is not padding has entropy 1, whatever the padding beside it."""
    model = build_model(tiny_model()).eval()
    for layer in model.transformer.decoder.layers:
        nn.init.zeros_(layer.multihead_attn.in_proj_weight)
    images, mask = pad_images([torch.rand(3, 64, 64), torch.rand(3, 32, 48)])
    targets = [t | {"image_id": i, "size": torch.tensor([64, 64])} for i, t in enumerate(random_targets([2, 0]))]

    class Images(list):
        images = ({"id": 0}, {"id": 1})

    with ValidationWatch(model, HungarianMatcher(), Images([0, 1]), probe_images=2, keep_layers=False) as watch:
        watch(Batch(images, mask, targets), model(images, mask))
    assert watch.signals(None)["attention_entropy_0"] == pytest.approx(1, abs=1e-5)


def test_hooks_are_gone_after_the_pass_and_after_a_failure(watched, tiny_run):
    watch, setup, *_ = watched()
    attention = setup.model.transformer.decoder.layers[0].multihead_attn
    assert not attention._forward_pre_hooks
    with pytest.raises(RuntimeError), watch:
        assert attention._forward_pre_hooks
        raise RuntimeError
    assert not attention._forward_pre_hooks


def test_probe_images_are_the_same_for_every_seed_of_the_run(tiny_run):
    def probes(seed: int) -> set[int]:
        setup = prepare(replace(tiny_run(), seed=seed))
        return ValidationWatch(setup.model, setup.criterion.matcher, setup.val_set, 2, False).probes

    assert probes(0) == probes(5)
    assert len(probes(0)) == 2


def test_layer_AP_is_COCOeval_of_the_model_cut_off_there(watched):
    watch, setup, loader, detections = watched(keep_layers=True, num_decoder_layers=3, num_queries=20)
    limits = (100.0, 300.0)
    last = evaluate_coco(setup.val_set.annotations, detections, limits)["AP"]
    found = watch.layer_AP(EvaluationConfig(area_limits=limits), last)
    layers = setup.model.transformer.decoder.layers
    for depth in (3, 2, 1):
        setup.model.transformer.decoder.layers = layers[:depth]
        cut, _ = predict_dataset(setup.model, loader, setup.criterion, setup.device)
        assert found[f"AP_layer_{depth - 1}"] == evaluate_coco(setup.val_set.annotations, cut, limits)["AP"]
    assert len(found) == 3


def test_one_decoder_layer(watched):
    watch, *_ = watched(keep_layers=True, num_decoder_layers=1)
    signals = watch.signals(watch.matching)
    assert "attention_entropy_0" in signals
    assert not any(name.startswith("layer_instability") for name in signals)
    assert watch.layer_AP(EvaluationConfig(), 0.5) == {"AP_layer_0": 0.5}


def test_fewer_queries_than_objects(watched):
    watch, *_ = watched(num_queries=1)
    signals = watch.signals(watch.matching)
    assert signals["query_use"] == 1
    assert signals["matching_instability"] == 0
    assert all(math.isfinite(v) for v in as_metrics(signals).values())
    assert "diagnostics/no_object_unmatched" not in as_metrics(signals)  # every query has an object in every image


def test_images_without_objects(tiny_run, write_coco, coco_config):
    config = replace(tiny_run(schedule={"horizon": "2 steps"}), data=coco_config(write_coco([[], [], []])))
    last = list(train(config))[-1].metrics
    assert last["diagnostics/query_use"] == last["diagnostics/matching_instability"] == 0
    assert "diagnostics/no_object_unmatched" in last
    assert not {"diagnostics/no_object_matched", "diagnostics/AP_layer_0"} & last.keys()
    assert "diagnostics/prediction_variance_boxes" not in last


def test_weights_that_are_no_numbers_give_no_signal_and_no_error(watched):
    def spoil(model: nn.Module) -> None:
        with torch.no_grad():
            model.class_embed.bias[0] = math.nan
            model.bbox_embed.layers[-1].bias[0] = math.nan

    watch, *_ = watched(spoil, keep_layers=True)
    signals = as_metrics(watch.signals(watch.matching) | watch.layer_AP(EvaluationConfig(), 0.0))
    assert all(math.isfinite(v) for v in signals.values())
    assert not {"diagnostics/no_object_matched", "diagnostics/prediction_variance_boxes"} & signals.keys()


def test_duplicates_of_a_pass(watched):
    """A model whose queries all give one sure box: all but one are duplicates."""

    def flatten(model: nn.Module) -> None:
        nn.init.zeros_(model.class_embed.weight)
        with torch.no_grad():
            model.class_embed.bias[0] = 20
        nn.init.zeros_(model.bbox_embed.layers[-1].weight)

    signals = watched(flatten)[0].signals(None)
    assert signals["duplicates"] == pytest.approx(7 / 8)
    assert signals["prediction_variance_boxes"] == pytest.approx(0, abs=1e-9)
    assert signals["prediction_variance_classes"] == pytest.approx(0, abs=1e-9)


# A run


def test_signals_of_a_run(tiny_run):
    records = metrics_of(list(train(tiny_run(train={"evaluations": 2, "update_ratio_steps": 2}))))
    steps, evaluations = ([m for m in records if f"{part}/loss" in m] for part in ("train", "val"))
    ratios = [("diagnostics/update_ratio_main" in m, "diagnostics/update_ratio_backbone" in m) for m in steps]
    assert ratios == [(False, False), (True, True)] * 2
    both = {
        "grad_norm_log10_median",
        "grad_norm_log10_p95",
        "attention_entropy_0",
        "attention_entropy_1",
        "layer_instability_0",
        "query_use",
        "no_object_matched",
        "no_object_unmatched",
        "prediction_variance_boxes",
        "prediction_variance_classes",
    }
    found = [
        {name.removeprefix("diagnostics/") for name in m if name.startswith("diagnostics/")} - {"duplicates"}
        for m in evaluations
    ]
    assert found == [both, both | {"matching_instability", "AP_layer_0", "AP_layer_1"}]
    norms = [m["train/grad_norm"] for m in steps[2:]]
    assert evaluations[1]["diagnostics/grad_norm_log10_median"] == pytest.approx(math.log10(np.mean(norms)))
    assert evaluations[1]["diagnostics/AP_layer_1"] == evaluations[1]["val/AP"]


def test_the_share_of_waiting_is_logged_at_every_step(tiny_run):
    first = next(train(tiny_run(train={"diagnostics": False}))).metrics
    assert first["train/wait_fraction"] == first["train/data_time"] / first["train/step_time"]
    assert 0 < first["train/wait_fraction"] < 1


def test_a_run_is_the_same_bit_by_bit_without_diagnostics(tiny_run, tmp_path):
    """Weights, state of the optimiser, predictions and all other metrics; dropout is on."""
    runs = {}
    for on in (True, False):
        config = tiny_run(train={"diagnostics": on, "update_ratio_steps": 1}, schedule={"horizon": "6 steps"})
        directory = tmp_path / str(on)
        directory.mkdir()
        records = metrics_of(list(train(config, directory)))
        state = load_checkpoint(checkpoints(directory / "checkpoints")[-1], prepare(config).model)
        weights = read_weights(checkpoints(directory / "checkpoints")[-1] / "model.safetensors")
        runs[on] = records, state, weights, json.loads((directory / "predictions.json").read_text())
    (with_them, state, weights, predictions), (without, other_state, other_weights, other_predictions) = runs.values()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    for i, entries in state["optimizer"]["state"].items():
        assert all(torch.equal(x, other_state["optimizer"]["state"][i][key]) for key, x in entries.items())
    assert predictions == other_predictions
    assert not any(name.startswith("diagnostics/") for m in without for name in m)
    rest = [{k: v for k, v in m.items() if not k.startswith("diagnostics/")} for m in with_them]
    torch.testing.assert_close(rest, without, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("records_before", range(1, 9))
def test_a_resumed_run_logs_the_same_diagnostics(tiny_run, tmp_path, records_before):
    """Closed after any record: before and after an evaluation, and between two with gradient norms gathered."""
    config = tiny_run(train={"evaluations": 3, "update_ratio_steps": 2}, schedule={"horizon": "6 steps"})
    whole = metrics_of(list(train(config)))
    run = train(config, tmp_path)
    parts = list(itertools.islice(run, records_before))
    run.close()
    parts += train(config, tmp_path)
    torch.testing.assert_close(metrics_of(parts), whole, rtol=0, atol=0, equal_nan=True)
    assert sum("diagnostics/matching_instability" in m for m in whole) == 2


def test_settings_are_checked():
    assert TrainConfig().diagnostics
    for name in ("probe_images", "update_ratio_steps"):
        with pytest.raises(InputError, match=rf"train.{name}=0"):
            TrainConfig(**{name: 0})
