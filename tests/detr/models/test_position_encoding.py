"""Position embeddings against a literal re-implementation of the official formula."""

import math

import pytest
import torch

from detr.errors import InputError
from detr.models.position_encoding import LearnedPositionEmbedding, SinePositionEmbedding


def official(mask: torch.Tensor, num_pos_feats: int) -> torch.Tensor:
    """models/position_encoding.py, number by number: (B, H, W, 2 * num_pos_feats)."""
    batch, height, width = mask.shape
    out = torch.zeros(batch, height, width, 2 * num_pos_feats, dtype=torch.float64)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                y = int((~mask[b, : row + 1, column]).sum())
                x = int((~mask[b, row, : column + 1]).sum())
                y_last, x_last = int((~mask[b, :, column]).sum()), int((~mask[b, row]).sum())
                for half, (value, last) in enumerate(((y, y_last), (x, x_last))):
                    scaled = value / (last + 1e-6) * 2 * math.pi
                    for i in range(num_pos_feats):
                        angle = scaled / 10000 ** (2 * (i // 2) / num_pos_feats)
                        out[b, row, column, half * num_pos_feats + i] = math.cos(angle) if i % 2 else math.sin(angle)
    return out


def test_sine_embedding_is_the_official_one():
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:] = True, True
    torch.testing.assert_close(SinePositionEmbedding(16)(mask).double(), official(mask, 8), rtol=0, atol=1e-5)


def test_the_last_row_and_column_are_a_full_turn():
    """Coordinates count from 1 to the last valid cell, so positions do not depend on the padding around an image."""
    alone = SinePositionEmbedding(16)(torch.zeros(1, 3, 5, dtype=torch.bool))
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[:, :3, :5] = False
    torch.testing.assert_close(SinePositionEmbedding(16)(mask)[:, :3, :5], alone)
    torch.testing.assert_close(alone[0, -1, 0, :2], torch.tensor([0.0, 1.0]), rtol=0, atol=1e-5)


def test_y_comes_before_x():
    embedding = SinePositionEmbedding(8)(torch.zeros(1, 3, 3, dtype=torch.bool))[0]
    assert torch.equal(embedding[1, 0, :4], embedding[1, 2, :4])
    assert torch.equal(embedding[0, 1, 4:], embedding[2, 1, 4:])
    assert not torch.allclose(embedding[0, 0, :4], embedding[1, 0, :4])


def test_a_fully_padded_row_is_finite():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, 2] = True
    assert torch.isfinite(SinePositionEmbedding(16)(mask)).all()
    assert torch.isfinite(SinePositionEmbedding(16)(torch.ones(1, 4, 4, dtype=torch.bool))).all()


def test_learned_embedding_is_column_then_row():
    module = LearnedPositionEmbedding(8)
    embedding = module(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert embedding.shape == (2, 3, 5, 8)
    assert torch.equal(embedding[1, 2, 4], torch.cat([module.col_embed.weight[4], module.row_embed.weight[2]]))
    assert 0 <= module.row_embed.weight.min() < module.row_embed.weight.max() <= 1


def test_learned_embedding_names_a_map_that_is_too_large():
    with pytest.raises(InputError, match=r"60x40.*position_embedding=sine"):
        LearnedPositionEmbedding(8)(torch.zeros(1, 60, 40, dtype=torch.bool))
