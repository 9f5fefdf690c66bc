"""The two published schedules, their compression, and the horizon's units."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detr.config import ScheduleConfig
from detr.errors import InputError
from detr.horizon import parse_horizon
from detr.schedule import lr_factor

OFFICIAL = ScheduleConfig(shape="step")
ABBREVIATED = ScheduleConfig(shape="warmup_cosine", full_epochs=100)
progresses = st.floats(0, 1)


def test_official_schedule_epoch_by_epoch():
    """StepLR of 400 epochs in 500: the rate of an epoch is that of its beginning."""
    factors = [lr_factor(OFFICIAL, epoch / 500) for epoch in range(500)]
    assert factors == [1.0] * 400 + [0.1] * 100


def test_abbreviated_schedule_epoch_by_epoch():
    peak, floor = 3e-4, 3e-6
    for epoch in range(101):
        if epoch < 5:
            expected = floor + (peak - floor) * epoch / 5
        elif epoch < 40:
            expected = peak
        else:
            expected = floor + (peak - floor) * (1 + math.cos(math.pi * (epoch - 40) / 60)) / 2
        assert peak * lr_factor(ABBREVIATED, epoch / 100) == pytest.approx(expected, rel=1e-12), epoch


@given(progresses)
def test_official_is_the_peak_for_four_fifths_then_a_tenth(progress):
    assert lr_factor(OFFICIAL, progress) == (1.0 if progress < 0.8 else 0.1)


@given(progresses, progresses)
def test_abbreviated_rises_stays_and_falls(a, b):
    a, b = sorted((a, b))
    first, second = lr_factor(ABBREVIATED, a), lr_factor(ABBREVIATED, b)
    assert 0.01 - 1e-12 <= first <= 1
    if b <= 0.05:
        assert first <= second
    elif a >= 0.05 and b < 0.4:
        assert first == second == 1
    elif a >= 0.4:
        assert first >= second


@given(
    st.sampled_from(["step", "warmup_cosine", "constant"]),
    progresses, progresses, progresses, progresses, progresses, progresses,
)  # fmt: skip
def test_any_shape_stays_between_its_floor_and_the_peak(shape, drop_at, drop_factor, a, b, floor, progress):
    warmup, flat_until = sorted((a, b))
    config = ScheduleConfig(
        shape=shape, drop_at=drop_at, drop_factor=drop_factor, warmup=warmup, flat_until=flat_until, floor=floor
    )
    lowest = {"step": drop_factor, "warmup_cosine": floor, "constant": 1.0}[shape]
    assert lowest - 1e-12 <= lr_factor(config, progress) <= 1 + 1e-12


@given(st.integers(1, 400), st.integers(1, 50), st.sampled_from([OFFICIAL, ABBREVIATED]))
def test_compression_keeps_the_shape(num_steps, stretch, config):
    """A run `stretch` times as long has the same rate at the same fraction of the run."""
    short = [lr_factor(config, step / num_steps) for step in range(num_steps)]
    long = [lr_factor(config, step / (num_steps * stretch)) for step in range(num_steps * stretch)]
    assert long[::stretch] == pytest.approx(short)


def test_warm_up_of_nothing_and_flat_to_the_end():
    assert lr_factor(replace(ABBREVIATED, warmup=0.0), 0.0) == 1
    assert lr_factor(replace(ABBREVIATED, flat_until=1.0), 1.0) == 1
    assert lr_factor(ABBREVIATED, 0.0) == lr_factor(ABBREVIATED, 1.0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("full", 50_000),  # 500 epochs of 1,000 images in batches of 10
        ("25 epochs", 2_500),
        ("1 epoch", 100),
        ("0.5 epochs", 50),
        ("600 steps", 600),
        ("600steps", 600),
        ("1e3 steps", 1_000),
        ("36000 samples", 3_600),
        ("5 %", 2_500),
        ("5%", 2_500),
        ("1 sample", 1),  # never no step at all
    ],
)
def test_horizon_in_every_unit(text, steps):
    assert parse_horizon(text).steps(num_images=1_000, effective_batch=10, full_epochs=500) == steps


@pytest.mark.parametrize("text", ["", "600", "-3 steps", "0 epochs", "full steps", "3 weeks", "1e999 steps", 600, None])
def test_horizon_without_a_meaning_is_refused(text):
    with pytest.raises(InputError, match="horizon"):
        parse_horizon(text)
