"""Box formats and generalised IoU against torchvision and their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert, generalized_box_iou

from detr.boxes import cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh

coordinates = st.floats(0, 1, width=32)
sides = st.floats(0.0009765625, 1, width=32)  # 2**-10
boxes = st.lists(st.tuples(coordinates, coordinates, sides, sides), min_size=1, max_size=6).map(torch.tensor)


@given(boxes)
def test_formats_are_inverse_and_torchvisions(cxcywh):
    xyxy = cxcywh_to_xyxy(cxcywh)
    torch.testing.assert_close(xyxy, box_convert(cxcywh, "cxcywh", "xyxy"))
    torch.testing.assert_close(xyxy_to_cxcywh(xyxy), cxcywh, rtol=0, atol=1e-6)


@given(boxes, boxes)
def test_giou_matrix_is_torchvisions(a, b):
    a, b = cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)
    torch.testing.assert_close(generalized_iou(a[:, None], b[None]), generalized_box_iou(a, b), rtol=1e-4, atol=1e-5)


@given(boxes, boxes)
def test_giou_is_symmetric_and_bounded(a, b):
    a, b = cxcywh_to_xyxy(a)[:, None], cxcywh_to_xyxy(b)[None]
    giou = generalized_iou(a, b)
    assert giou.min() >= -1 - 1e-5
    assert giou.max() <= 1 + 1e-5
    torch.testing.assert_close(giou, generalized_iou(b, a))


@given(boxes)
def test_giou_of_a_box_with_itself_is_one(cxcywh):
    xyxy = cxcywh_to_xyxy(cxcywh)
    torch.testing.assert_close(generalized_iou(xyxy, xyxy), torch.ones(len(xyxy)), rtol=0, atol=1e-4)


def test_inverse_sigmoid_is_the_logit_and_finite_at_the_ends():
    x = torch.tensor([0.1, 0.5, 0.99])
    torch.testing.assert_close(inverse_sigmoid(x), x.logit())
    ends = torch.tensor([-0.1, 0.0, 1e-6, 1.0, 1.2])
    expected = torch.tensor([-11.5129251, -11.5129251, -11.5129242, 11.5129251, 11.5129251])  # Deformable DETR's
    torch.testing.assert_close(inverse_sigmoid(ends), expected)
    torch.testing.assert_close(
        inverse_sigmoid(ends, eps=1e-3)[[0, 2, 4]], torch.tensor([-6.90775537, -6.90775442, 6.90775537])
    )


def test_giou_by_hand():
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])  # overlap 1, union 7, hull 9
    assert generalized_iou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)


@pytest.mark.parametrize("other", [[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], [0.5, 0.2, 0.5, 0.9]])
def test_boxes_without_area_have_finite_giou_and_gradient(other):
    point = torch.full((4,), 0.5, requires_grad=True)
    giou = generalized_iou(point, torch.tensor(other))
    giou.backward()
    assert torch.isfinite(giou)
    assert torch.isfinite(point.grad).all()


def test_integer_boxes_give_the_same_as_floats():
    a, b = torch.tensor([[0, 0, 3, 5]]), torch.tensor([[1, 1, 4, 4]])
    torch.testing.assert_close(xyxy_to_cxcywh(a), torch.tensor([[1.5, 2.5, 3, 5]]))
    torch.testing.assert_close(cxcywh_to_xyxy(torch.tensor([[1, 1, 1, 1]])), torch.tensor([[0.5, 0.5, 1.5, 1.5]]))
    torch.testing.assert_close(generalized_iou(a, b), generalized_iou(a.float(), b.float()))
