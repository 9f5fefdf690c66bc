"""Padding, and the order in which training sees the images."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detr.data.batch import batches, collate, pad_images
from detr.data.sampler import GROUPED, GroupingSampler, StreamSampler
from detr.errors import InputError


def test_padding_is_right_and_bottom_zero_and_marked():
    images = [torch.full((3, 2, 5), 7.0), torch.full((3, 4, 3), 8.0)]
    padded, mask = pad_images(images)
    assert padded.shape == (2, 3, 4, 5)
    assert mask.tolist()[0] == [[False] * 5] * 2 + [[True] * 5] * 2
    assert mask.tolist()[1] == [[False] * 3 + [True] * 2] * 4
    assert torch.equal(padded[0, :, :2, :5], images[0])
    assert (padded.masked_select(mask[:, None]) == 0).all()


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4), st.integers(1, 16))
def test_padded_sizes_are_multiples_and_no_larger_than_needed(sizes, multiple):
    padded, mask = pad_images([torch.ones(3, *size) for size in sizes], multiple)
    for axis in (0, 1):
        side, largest = padded.shape[2 + axis], max(size[axis] for size in sizes)
        assert side % multiple == 0
        assert largest <= side < largest + multiple
    assert (~mask).flatten(1).sum(1).tolist() == [h * w for h, w in sizes]


def test_errors_pass_through_the_loader_and_are_raised_in_the_main_process():
    error = InputError("7.png: the image file is missing")
    assert collate(error) is error
    with pytest.raises(InputError, match=r"7\.png"):
        list(batches([error]))


def stream(sampler: StreamSampler) -> list[tuple[int, int]]:
    return [key for micro_batch in sampler for key in micro_batch]


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 4), st.integers(0, 5))
def test_every_epoch_is_a_permutation(num_images, batch_size, accumulate, seed):
    sampler = StreamSampler(num_images, batch_size, accumulate, seed, 0, 40)
    keys = stream(sampler)
    assert len(keys) == 40 * batch_size * accumulate
    assert len(sampler) == 40 * accumulate
    whole = len(keys) // num_images
    for epoch in range(whole):
        assert sorted(i for e, i in keys if e == epoch) == list(range(num_images))
    assert (
        max(Counter(i for _, i in keys).values()) - min(Counter(i for _, i in keys[: whole * num_images]).values()) <= 1
    )


@given(st.integers(1, 30), st.integers(1, 7), st.integers(1, 4), st.integers(0, 20))
def test_a_later_start_sees_the_same_stream(num_images, batch_size, accumulate, first_step):
    whole = stream(StreamSampler(num_images, batch_size, accumulate, 3, 0, 20))
    rest = stream(StreamSampler(num_images, batch_size, accumulate, 3, first_step, 20))
    assert rest == whole[first_step * batch_size * accumulate :]


def test_how_a_batch_is_split_does_not_change_the_stream():
    assert stream(StreamSampler(10, 6, 1, 0, 0, 9)) == stream(StreamSampler(10, 2, 3, 0, 0, 9))


def test_seeds_and_epochs_have_their_own_order():
    orders = [tuple(stream(StreamSampler(20, 20, 1, seed, 0, 1))) for seed in range(4)]
    assert len(set(orders)) == 4
    keys = stream(StreamSampler(20, 20, 1, 0, 0, 2))
    assert [i for _, i in keys[:20]] != [i for _, i in keys[20:]]


def shape(key: tuple[int, int]) -> tuple[int, int]:
    """Heights and widths that follow from the key."""
    epoch, index = key
    return (480 + (7 * index + epoch) % 9, 640) if index % 3 else (640, 480 + index % 5)


def padded_pixels(micro_batches) -> int:
    return sum(len(keys) * max(h for h, _ in map(shape, keys)) * max(w for _, w in map(shape, keys))
               for keys in micro_batches)  # fmt: skip


@given(st.integers(2, 40), st.integers(1, 5), st.integers(1, 40), st.integers(0, 20))
def test_grouping_exchanges_images_within_windows_of_whole_steps(num_images, batch_size, accumulate, first_step):
    arguments = (num_images, batch_size, accumulate, 3)
    window = -(-GROUPED // accumulate)
    last = 2 * window + first_step % window
    plain, grouped = StreamSampler(*arguments, 0, last), GroupingSampler(shape, *arguments, 0, last)
    size = window * accumulate * batch_size
    keys, expected = stream(grouped), stream(plain)
    assert len(keys) == len(expected) and len(grouped) == len(list(grouped))
    for begin in (0, size):  # the last window may lack steps
        assert sorted(keys[begin : begin + size]) == sorted(expected[begin : begin + size])
    later = stream(GroupingSampler(shape, *arguments, min(first_step, last), last))
    assert later == keys[min(first_step, last) * accumulate * batch_size :]


def test_grouping_saves_most_of_the_padding_and_shuffles_what_it_grouped():
    arguments = (200, 4, 8, 0, 0, 8)
    plain, grouped = list(StreamSampler(*arguments)), list(GroupingSampler(shape, *arguments))
    used = sum(h * w for keys in plain for h, w in map(shape, keys))
    assert padded_pixels(grouped) - used < 0.2 * (padded_pixels(plain) - used)
    portrait = [shape(keys[0])[0] == 640 for keys in grouped]
    assert portrait != sorted(portrait) and portrait != sorted(portrait, reverse=True)


def test_several_processes_share_the_grouped_micro_batches():
    arguments = (50, 2, 4, 0, 3, 20)
    whole = list(GroupingSampler(shape, *arguments))
    parts = [list(GroupingSampler(shape, *arguments, rank, 2)) for rank in range(2)]
    assert [keys for i in range(0, len(parts[0]), 2) for part in parts for keys in part[i : i + 2]] == whole
