"""Tokens of feature levels in a row: order, valid ratios, cell centres."""

import torch

from detr.models.memory import build_memory


def two_levels():
    """Two images of two levels; the second has padding to the right of column 3 of 4, and below row 1 of 2."""
    masks = [torch.zeros(2, 2, 4, dtype=torch.bool), torch.zeros(2, 1, 2, dtype=torch.bool)]
    masks[0][1, 1:], masks[0][1, :, 3:] = True, True
    features = [torch.randn(2, 8, *mask.shape[1:]) for mask in masks]
    positions = [torch.randn(*mask.shape, 8) for mask in masks]
    return features, masks, positions


def test_cells_follow_each_other_row_by_row_and_level_by_level():
    features, masks, positions = two_levels()
    memory = build_memory(features, masks, positions)
    assert memory.tokens.shape == memory.position.shape == (2, 10, 8)
    assert torch.equal(memory.tokens[1, 6], features[0][1, :, 1, 2])
    assert torch.equal(memory.position[1, 6], positions[0][1, 1, 2])
    assert torch.equal(memory.tokens[0, 9], features[1][0, :, 0, 1])
    assert memory.padding_mask.tolist() == [[False] * 10, [False] * 3 + [True] * 5 + [False] * 2]
    assert memory.level_shapes == ((2, 4), (1, 2))


def test_valid_ratios_are_shares_of_width_and_height():
    memory = build_memory(*two_levels())
    assert memory.valid_ratios.tolist() == [[[1, 1], [1, 1]], [[0.75, 0.5], [1, 1]]]
    assert memory._replace(padding_mask=None).valid_ratios.tolist() == [[[1, 1], [1, 1]]] * 2


def test_cell_centres_are_relative_to_the_unpadded_image():
    centres = build_memory(*two_levels()).cell_centres
    assert centres.shape == (2, 10, 2)
    assert centres[0, :4].tolist() == [[0.125, 0.25], [0.375, 0.25], [0.625, 0.25], [0.875, 0.25]]
    assert centres[0, 4].tolist() == [0.125, 0.75]
    assert centres[0, 8:].tolist() == [[0.25, 0.5], [0.75, 0.5]]
    torch.testing.assert_close(centres[1, :3], torch.tensor([[1 / 6, 0.5], [0.5, 0.5], [5 / 6, 0.5]]))
    assert (centres[1, 3:8] > 1).any(-1).all()  # on padding
