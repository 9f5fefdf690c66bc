"""Both conventions of the class logits against their definitions, and through matcher, loss and post-processing."""

import argparse
import json
import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from detr.classification import Focal, Softmax, build_classification
from detr.config import LossConfig
from detr.config_io import to_dict
from detr.criterion import SetCriterion
from detr.errors import InputError
from detr.inference.detector import add_checkpoint_arguments, open_detector
from detr.matcher import HungarianMatcher
from detr.models import build_model
from detr.postprocess import postprocess
from detr.train import train


def test_the_setting_chooses():
    assert build_classification(LossConfig(no_object_weight=0.3)) == Softmax(0.3)
    assert build_classification(LossConfig(classification="focal")) == Focal()
    with pytest.raises(InputError, match=r"loss\.classification='sigmoid': choose from softmax, focal"):
        LossConfig(classification="sigmoid")


def test_probabilities_and_no_object():
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])
    torch.testing.assert_close(Softmax().probabilities(logits), torch.tensor([[1 / 8, 2 / 8]]))
    torch.testing.assert_close(Softmax().no_object(logits), torch.tensor([5 / 8]))
    torch.testing.assert_close(Focal().probabilities(logits), torch.tensor([[1 / 2, 2 / 3, 5 / 6]]))
    torch.testing.assert_close(Focal().no_object(logits), torch.tensor([1 / 6]))


def test_focal_loss_is_torchvisions():
    logits, classes = (torch.randn(50, 7) * 3).requires_grad_(), torch.randint(8, (50,))  # 7: no object
    one_hot = torch.nn.functional.one_hot(classes, 8)[:, :7].float()
    expected = sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2.0).sum(-1)
    found = Focal().loss(logits, classes)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(y.sum(), logits)[0] for y in (found, expected))
    torch.testing.assert_close(*gradients)


def test_focal_loss_is_finite_for_sure_and_wrong_queries():
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0]], requires_grad=True)
    loss = Focal().loss(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(loss, torch.tensor([0.75 * 80 + 0.25 * 80, 0.75 * 80]))
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def draw_costs() -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Outputs, targets, and the costs (query x object) of Deformable DETR's code at 11169a6, of the class alone and
    with weights 2, 5 and 2.
    """
    generator = torch.Generator().manual_seed(9)
    logits = 3 * torch.randn(2, 4, 7, generator=generator)
    boxes = 0.1 + 0.4 * torch.rand(2, 4, 4, generator=generator)
    targets = [
        {
            "labels": torch.tensor([2, 6, 1]),
            "boxes": torch.tensor(
                [
                    [0.209903419, 0.449662238, 0.28834635, 0.260017067],
                    [0.235876113, 0.261703938, 0.271940231, 0.350859463],
                    [0.443682104, 0.306842864, 0.476761252, 0.238695621],
                ]
            ),
        },
        {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.112641715, 0.400185764, 0.348205894, 0.374833941]])},
    ]
    alone = torch.tensor(
        [
            [-2.30143714, 0.500011504, 0.452873528],
            [-0.750149786, -5.00192595, -2.06661081],
            [0.811985433, -3.34734273, -0.357919574],
            [0.515074313, 1.00828874, 1.13571441],
        ]
    )
    weighted = torch.tensor(
        [
            [-3.30621099, 4.01379442, 6.4464221],
            [3.33209085, -7.25643444, -1.68014944],
            [4.87512589, -4.70823383, 3.27197814],
            [0.975698709, 4.02794552, 5.69588709],
        ]
    )
    return {"pred_logits": logits, "pred_boxes": boxes}, targets, alone, weighted


@pytest.mark.parametrize("weights", ["class alone", "all"])
def test_focal_matching_cost_is_the_official_one(weights):
    outputs, targets, alone, weighted = draw_costs()
    costs = (1, 0, 0) if weights == "class alone" else (2, 5, 2)
    matcher = HungarianMatcher(*costs, Focal())
    logits, boxes, (first, _) = outputs["pred_logits"][None, :1], outputs["pred_boxes"][None, :1], targets
    found = matcher.cost(logits, boxes, first["labels"][None], first["boxes"][None])[0, 0].T
    torch.testing.assert_close(found, alone if weights == "class alone" else weighted, rtol=1e-5, atol=1e-5)


def test_focal_loss_is_the_official_one():
    """Its sum over queries and classes, divided by the number of objects, as Deformable DETR's code gives it."""
    generator = torch.Generator().manual_seed(8)
    logits = 2 * torch.randn(2, 6, 7, generator=generator)
    is_class = torch.rand(2, 6, 7, generator=generator) < 0.1
    assert is_class.sum() == 9
    none, all_none = Focal().loss(logits.flatten(0, 1), torch.full((12,), 7)), torch.zeros(())
    for query, label in is_class.flatten(0, 1).nonzero().tolist():  # a query with several classes is one with each
        own = logits.flatten(0, 1)[query : query + 1]
        all_none = all_none + Focal().loss(own, torch.tensor([label])).sum() - none[query]
    torch.testing.assert_close((none.sum() + all_none) / 3, torch.tensor(17.0419998))


def test_focal_criterion_divides_by_the_objects_of_the_whole_batch(random_targets):
    targets = random_targets([2, 0, 3])
    outputs = {"pred_logits": torch.randn(3, 5, 3), "pred_boxes": torch.rand(3, 5, 4) * 0.5 + 0.1}
    criterion = SetCriterion(3, LossConfig(classification="focal", cost_class=2, weight_ce=2))
    classes = torch.full((3, 5), 3)
    for i, (query, found) in enumerate(criterion.matcher(outputs, targets)):
        classes[i, query] = targets[i]["labels"][found]
    losses = criterion(outputs, targets)
    one_hot = torch.nn.functional.one_hot(classes, 4)[..., :3].float()
    expected = sigmoid_focal_loss(outputs["pred_logits"], one_hot, reduction="sum") / 5
    torch.testing.assert_close(losses["loss_ce"], expected)
    normalizers = criterion.normalizers(targets)
    parts = [
        criterion({key: x[i : i + 1] for key, x in outputs.items()}, targets[i : i + 1], normalizers) for i in range(3)
    ]
    torch.testing.assert_close(sum(criterion.total(part) for part in parts), criterion.total(losses))
    empty = criterion(outputs, random_targets([0, 0, 0]))
    torch.testing.assert_close(empty["loss_ce"], sigmoid_focal_loss(outputs["pred_logits"], 0 * one_hot).sum())


def test_a_query_with_two_high_classes_gives_two_detections():
    logits = torch.full((1, 3, 4), -9.0)
    logits[0, 1, 2], logits[0, 1, 0], logits[0, 2, 3] = 5.0, 4.0, 3.0
    boxes = torch.rand(1, 3, 4)
    (result,) = postprocess({"pred_logits": logits, "pred_boxes": boxes}, [(10, 10)], Focal())
    assert result["query"][:3].tolist() == [1, 1, 2]
    assert result["labels"][:3].tolist() == [2, 0, 3]
    torch.testing.assert_close(result["scores"][:3], torch.tensor([5.0, 4, 3]).sigmoid())
    assert len(result["scores"]) == 12  # all there are
    assert torch.equal(result["boxes"][0], result["boxes"][1])
    torch.testing.assert_close(result["boxes"][2, 2], (boxes[0, 2, 0] + boxes[0, 2, 2] / 2) * 10)


def test_focal_keeps_the_best_hundred_in_order():
    logits = torch.randn(2, 30, 5)
    results = postprocess({"pred_logits": logits, "pred_boxes": torch.rand(2, 30, 4)}, [(9, 9), (9, 9)], Focal())
    for own, result in zip(logits, results, strict=True):
        torch.testing.assert_close(result["scores"], own.sigmoid().flatten().sort(descending=True).values[:100])
        torch.testing.assert_close(own[result["query"], result["labels"]].sigmoid(), result["scores"])


@pytest.mark.parametrize("classification", [Softmax(), Focal()])
def test_the_model_carries_its_convention(tiny_model, classification):
    model = build_model(tiny_model(), classification)
    images = torch.randn(1, 3, 32, 32)
    outputs = model(images, torch.zeros(1, 32, 32, dtype=torch.bool))
    assert outputs["pred_logits"].shape[-1] == classification.num_logits(3)
    assert model.classification == classification


def test_a_focal_run_trains_and_its_checkpoint_is_read_again(tiny_run, tmp_path):
    """With diagnostics, and with the number of classes from the data, which the class head alone tells later."""
    config = tiny_run(loss={"classification": "focal", "cost_class": 2.0, "weight_ce": 2.0})
    records = list(train(config, tmp_path))
    metrics = records[-1].metrics
    assert metrics["val/loss"] > 0
    assert 0 < metrics["diagnostics/no_object_unmatched"] < 1
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert len(found) == 3 * 8 * 3  # images, queries, classes: below the limit of 100 an image
    assert {d["query"] for d in found} == set(range(8))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    parser = argparse.ArgumentParser()
    add_checkpoint_arguments(parser)
    arguments = ["--checkpoint", str(tmp_path / "best.safetensors"), "--device", "cpu"]
    detector = open_detector(parser.parse_args(arguments))
    assert detector.model_config.num_classes == detector.model.class_embed.out_features == 3
    result = detector.detect(torch.zeros(3, 32, 32, dtype=torch.uint8))
    assert len(result["scores"]) == 8 * 3
