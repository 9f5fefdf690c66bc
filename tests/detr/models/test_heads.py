"""Class and box heads, and the queries that reach them."""

import pytest
import torch

from detr.classification import Focal, Softmax
from detr.models.heads import BoxHead, ClassHead
from detr.models.memory import Memory
from detr.models.queries import LearnedQueries


@pytest.mark.parametrize(("classification", "width"), [(Softmax(), 8), (Focal(), 7)])
def test_width_of_the_class_head_is_the_conventions(classification, width):
    assert ClassHead(16, 7, classification).out_features == width


def test_focal_classes_start_at_one_percent_and_softmax_at_torchs_default():
    head = ClassHead(16, 7, Focal())
    torch.testing.assert_close(head.bias.sigmoid(), torch.full((7,), 0.01))
    assert head.weight.std() > 0
    assert ClassHead(16, 7, Softmax()).bias.unique().numel() == 8


def test_boxes_without_references_are_the_sigmoid_of_three_layers():
    head, x = BoxHead(8), torch.randn(2, 5, 8)
    first, second, third = head.layers
    torch.testing.assert_close(head(x), third(second(first(x).relu()).relu()).sigmoid())


@pytest.mark.parametrize("known", [2, 4])
def test_boxes_are_sought_from_their_reference(known):
    """With no offset a box lies at its reference; what the reference does not tell starts at one half."""
    head, references = BoxHead(8), torch.rand(2, 5, known) * 0.9 + 0.05
    x = torch.randn(2, 5, 8)
    moved = (head(x).logit() + torch.cat([references.logit(), torch.zeros(2, 5, 4 - known)], dim=-1)).sigmoid()
    torch.testing.assert_close(head(x, references), moved)
    torch.nn.init.zeros_(head.layers[-1].weight)
    torch.nn.init.zeros_(head.layers[-1].bias)
    boxes = head(x, references)
    torch.testing.assert_close(boxes[..., :known], references)
    assert (boxes[..., known:] == 0.5).all()


def test_learned_queries_have_a_position_and_no_content():
    queries = LearnedQueries(3, 8)
    found = queries(Memory(torch.randn(2, 6, 8), torch.randn(2, 6, 8)))
    assert found.tokens.shape == (2, 3, 8)
    assert not found.tokens.any()
    assert torch.equal(found.position, queries.weight.expand(2, 3, 8))
    assert found.references is None
    assert abs(LearnedQueries(100, 256).weight.std().item() - 1) < 0.02
