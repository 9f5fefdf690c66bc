"""The simulated figures that the statistics have to keep; those that take minutes are left to `make calibrate`."""

import pytest

from experiments.results import calibrate
from experiments.results.calibrate import Figure


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        (calibrate.fixed_seeds, {}),
        (calibrate.automatic_seeds, {}),
        (calibrate.e_values, {"sets": 20_000}),
        (calibrate.sweep_ranks, {"sets": 150}),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_figures_keep_their_bounds(part, sizes):
    assert [figure for figure in part(**sizes) if not figure.holds] == []


@pytest.mark.parametrize(
    ("part", "sizes", "count"),
    [(calibrate.images, {"sets": 3, "num_images": 20, "population": 100}, 2), (calibrate.both, {"sets": 3}, 12)],
)
def test_the_long_parts_give_shares(part, sizes, count):
    figures = list(part(**sizes))
    assert len(figures) == count and all(0 <= figure.found <= 100 for figure in figures)


def test_the_table_marks_what_misses_its_bounds():
    text = calibrate.table([Figure("power, %", "two arms", 97.123, 98, 100), Figure("width", "of 6", 0.64, 0, 0.7)])
    assert "| power, % | two arms | 97.1 | 98 to 100 **missed** |" in text
    assert "| width | of 6 | 0.64 | 0 to 0.7 |" in text and "1 of 2 simulated figures" in text


def test_the_kept_table_is_of_these_checks():
    rows = [line for line in calibrate.TABLE.read_text().splitlines() if line.startswith("|")][2:]
    kept = {tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows}
    for part in (calibrate.fixed_seeds, calibrate.automatic_seeds):
        assert {(figure.check, figure.setting) for figure in part(sets=10)} <= kept
    assert not any("missed" in row for row in rows)
