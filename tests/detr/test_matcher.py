"""The assignment against brute force, and what must not influence it."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr.config import LossConfig
from detr.matcher import HungarianMatcher, stack_layers


def pair_cost(logits, box, label, target_box) -> float:
    """The cost of one query and one object, written out from the definition in float64."""
    probability = logits.double().exp()[label] / logits.double().exp().sum()
    box, target_box = box.double(), target_box.double()
    distance = sum(abs(box[i] - target_box[i]) for i in range(4))
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for cx, cy, w, h in (box.tolist(), target_box.tolist())
    )
    overlap = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return float(-probability + 5 * distance - 2 * (overlap / union - (hull - union) / hull))


def cost_of(match, outputs, target, image: int = 0) -> float:
    return sum(
        pair_cost(outputs["pred_logits"][image, q], outputs["pred_boxes"][image, q], label, box)
        for q, label, box in zip(match[0], target["labels"][match[1]], target["boxes"][match[1]], strict=True)
    )


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10_000))
def test_no_assignment_is_cheaper(random_outputs, random_targets, num_queries, num_objects, seed):
    outputs = random_outputs(1, num_queries, seed=seed)
    target = random_targets([num_objects], seed=seed + 1)[0]
    match = HungarianMatcher()(outputs, [target])[0]
    count = min(num_queries, num_objects)
    assert len(match[0]) == len(match[1]) == count
    if num_objects <= num_queries:
        every = [(torch.tensor(queries), torch.arange(count)) for queries in permutations(range(num_queries), count)]
    else:  # every query is used, and objects are left over
        every = [(torch.arange(count), torch.tensor(objects)) for objects in permutations(range(num_objects), count)]
    best = min(cost_of(m, outputs, target) for m in every)
    assert cost_of(match, outputs, target) == pytest.approx(best, abs=1e-5)


@given(st.permutations(range(6)), st.integers(0, 10_000))
def test_permuting_the_queries_permutes_the_match(random_outputs, random_targets, order, seed):
    outputs, targets = random_outputs(1, 6, seed=seed), random_targets([4], seed=seed + 1)
    permuted = {key: outputs[key][:, order] for key in ("pred_logits", "pred_boxes")}
    queries, objects = HungarianMatcher()(outputs, targets)[0]
    new_queries, new_objects = HungarianMatcher()(permuted, targets)[0]
    pairs = {(order[q], o) for q, o in zip(new_queries.tolist(), new_objects.tolist(), strict=True)}
    assert pairs == set(zip(queries.tolist(), objects.tolist(), strict=True))


def test_images_are_matched_apart(random_outputs, random_targets):
    """An image with fewer objects than its neighbour gets no match with the padding of the cost matrix."""
    outputs, targets = random_outputs(4), random_targets([2, 0, 5, 1])
    together = HungarianMatcher()(outputs, targets)
    for i, target in enumerate(targets):
        alone = HungarianMatcher()({k: outputs[k][i : i + 1] for k in ("pred_logits", "pred_boxes")}, [target])[0]
        assert [x.tolist() for x in together[i]] == [x.tolist() for x in alone]
        assert sorted(together[i][1].tolist()) == list(range(len(target["labels"])))


def test_layers_are_matched_apart(random_outputs, random_targets):
    outputs, targets = random_outputs(3, layers=3), random_targets([1, 3, 0])
    matcher = HungarianMatcher()
    layers = matcher.match_layers(*stack_layers(outputs), targets)
    assert len(layers) == 3
    for found, layer in zip(layers, [*outputs["aux_outputs"], outputs], strict=True):
        for pair, alone in zip(found, matcher(layer, targets), strict=True):
            assert [x.tolist() for x in pair] == [x.tolist() for x in alone]


def test_more_objects_than_queries_gives_every_query_its_own_object(random_outputs, random_targets):
    queries, objects = HungarianMatcher()(random_outputs(1, queries=5), random_targets([9]))[0]
    assert queries.tolist() == [0, 1, 2, 3, 4]
    assert len(set(objects.tolist())) == 5


def test_batch_without_any_object(random_outputs, random_targets):
    matches = HungarianMatcher()(random_outputs(2), random_targets([0, 0]))
    assert [[x.tolist() for x in pair] for pair in matches] == [[[], []], [[], []]]
    assert all(x.dtype == torch.int64 for pair in matches for x in pair)


def test_integer_boxes_and_short_labels(random_outputs):
    target = {"labels": torch.tensor([1, 0], dtype=torch.int32), "boxes": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])}
    as_float = {"labels": target["labels"].long(), "boxes": target["boxes"].float()}
    outputs = random_outputs(1)
    for found, expected in zip(
        HungarianMatcher()(outputs, [target]), HungarianMatcher()(outputs, [as_float]), strict=True
    ):
        assert [x.tolist() for x in found] == [x.tolist() for x in expected]


def test_each_cost_alone_decides(random_targets):
    """One query for each criterion is perfect in it and bad in the others."""
    target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    logits = torch.tensor([[[9.0, 0, 0], [0, 9, 0], [0, 9, 0]]])
    boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.61, 0.61, 0.01, 0.01], [0.5, 0.5, 0.6, 0.6]]])
    outputs = {"pred_logits": logits, "pred_boxes": boxes}

    def chosen(**costs: float) -> int:
        config = LossConfig(**{"cost_class": 0, "cost_bbox": 0, "cost_giou": 0, **costs})
        return HungarianMatcher.from_config(config)(outputs, [target])[0][0].item()

    assert chosen(cost_class=1) == 0
    assert chosen(cost_bbox=1) == 1
    assert chosen(cost_giou=1) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_outputs_are_matched_somehow(random_outputs, random_targets, value):
    """The loss that follows stops the run by name; scipy's error would name nothing."""
    outputs = random_outputs(1)
    outputs["pred_boxes"][0, 2] = value
    outputs["pred_logits"][0, 1, 0] = value
    assert len(HungarianMatcher()(outputs, random_targets([3]))[0][0]) == 3


def test_costs_are_float32_whatever_the_outputs(random_outputs, random_targets):
    class Watched(HungarianMatcher):
        def cost(self, *inputs: torch.Tensor) -> torch.Tensor:
            self.dtypes = {x.dtype for x in (*inputs[:2], super().cost(*inputs))}
            return super().cost(*inputs)

    matcher = Watched()
    outputs = random_outputs(2)
    matcher({k: outputs[k].bfloat16() for k in ("pred_logits", "pred_boxes")}, random_targets([2, 3]))
    assert matcher.dtypes == {torch.float32}
