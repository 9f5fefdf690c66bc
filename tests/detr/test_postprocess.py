"""Detections of hand-made outputs."""

import pytest
import torch

from detr.postprocess import postprocess


def test_boxes_are_scaled_to_height_and_width_of_the_original():
    outputs = {"pred_logits": torch.zeros(1, 1, 3), "pred_boxes": torch.tensor([[[0.5, 0.25, 0.2, 0.5]]])}
    (result,) = postprocess(outputs, [(100, 200)])
    torch.testing.assert_close(result["boxes"], torch.tensor([[80.0, 0, 120, 50]]))


def test_no_object_is_never_the_answer_but_takes_its_share_of_probability():
    logits = torch.tensor([[[1.0, 2, 9], [3, 0, -9]]])
    (result,) = postprocess({"pred_logits": logits, "pred_boxes": torch.rand(1, 2, 4)}, torch.tensor([[10, 10]]))
    assert result["labels"].tolist() == [1, 0]
    torch.testing.assert_close(
        result["scores"], torch.stack([logits[0, 0].softmax(-1)[1], logits[0, 1].softmax(-1)[0]])
    )


def test_every_query_is_returned_in_its_order(random_outputs):
    outputs = random_outputs(2, queries=30)
    results = postprocess(outputs, [(10, 10), (20, 20)])
    assert [r["query"].tolist() for r in results] == [[*range(30)]] * 2
    assert [len(r["scores"]) for r in results] == [30, 30]
    ratio = results[1]["boxes"][:, 2] / (outputs["pred_boxes"][1, :, 0] + outputs["pred_boxes"][1, :, 2] / 2)
    torch.testing.assert_close(ratio, torch.full((30,), 20.0))


def test_a_size_for_every_image(random_outputs):
    with pytest.raises((RuntimeError, ValueError)):
        postprocess(random_outputs(2), [(10, 10), (10, 10), (10, 10)])
