"""Boxes as SVG: what is drawn at a threshold, how outcomes are told apart, and names that are code."""

import re

import pytest

from experiments.results.detections import scenes
from experiments.results.detections.matching import match, read_detections, read_truth
from experiments.results.detections.operating_points import counts_by_image
from experiments.results.detections.scenes import FALSE_ALARM, HIT, IGNORED, MISS, OBJECT, Shape, objects, shapes, svg

NAME = "<script>alert('1')</script>\""


@pytest.fixture(scope="module")
def matched(noisy_scenes):
    annotations, detections = noisy_scenes(9, num_images=30)
    return match(read_detections(read_truth(annotations), detections))


@pytest.mark.parametrize("threshold", [0, 0.5])
def test_shapes_are_the_counted_ones(matched, threshold):
    for n, row in counts_by_image(matched, threshold).iterrows():
        drawn = shapes(matched, n, threshold)
        found = [sum(shape.outcome == outcome for shape in drawn) for outcome in (HIT, FALSE_ALARM, MISS)]
        assert found == row.tolist()
        assert all(shape.score is None or shape.score >= threshold for shape in drawn)
        assert len(objects(matched.detections.truth, n)) == (matched.detections.truth.image == n).sum()
    ignored = [shape for n in range(30) for shape in shapes(matched, n, 0) if shape.outcome == IGNORED]
    assert len(ignored) == matched.ignored.sum() > 0


def test_an_outcome_alone(matched):
    n = int(matched.detections.image[matched.false_alarm][0])
    assert {shape.outcome for shape in shapes(matched, n, 0, [FALSE_ALARM])} == {FALSE_ALARM}


def test_crowds_are_told_from_objects(matched):
    truth = matched.detections.truth
    outcomes = [shape.outcome for n in range(30) for shape in objects(truth, n)]
    assert outcomes.count(IGNORED) == truth.crowd.sum() > 0
    assert outcomes.count(OBJECT) == (~truth.crowd).sum()


def test_a_box_is_drawn_with_class_and_score_and_a_name_is_no_code():
    drawn = svg((40, 30), [Shape((1, 2, 3, 4), HIT, NAME, 0.5)], text=4)
    assert 'x="1.00" y="2.00" width="3.00" height="4.00"' in drawn and 'viewBox="0 0 40 30"' in drawn
    escaped = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&quot;"
    assert f"<title>hit: {escaped} 0.50</title>" in drawn and f">{escaped} 0.50</text>" in drawn
    assert 'd="M1.0 2.0h3.0v4.0h-3.0z"' in drawn  # its edge
    assert "<script" not in drawn
    assert "<text" not in svg((40, 30), [Shape((1, 2, 3, 4), HIT, NAME, 0.5)])
    assert "<script" not in scenes.picture("", NAME, (40, 30), "a")


def test_outcomes_differ_in_colour_and_in_line():
    colours, dashes = zip(*scenes.LINES.values(), strict=True)
    assert len(set(colours)) == len(colours)
    counted = [scenes.LINES[name][1] for name in scenes.OUTCOMES]
    assert len(set(counted)) == 3 and dashes[-1] == "none"


def test_numbers_of_outcomes():
    drawn = [Shape((0, 0, 1, 1), outcome, "a") for outcome in (HIT, HIT, MISS, IGNORED)]
    assert scenes.outcome_counts(drawn) == "2 hits, 0 false alarms, 1 miss"


def places(drawn):
    """Caption -> x, y and font size."""
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" font-size="([\d.]+)">([^<]*)</text>', drawn)
    return {caption: tuple(map(float, place)) for *place, caption in found}


def test_captions_do_not_cover_each_other_and_the_best_stands_at_its_box():
    weak, best = Shape((50, 50, 20, 20), HIT, "a", 0.2), Shape((51, 51, 20, 20), HIT, "b", 0.9)
    found = places(svg((200, 200), [weak, best], text=10))
    assert found == {"b 0.90": (51, 48.5, 10), "a 0.20": (50, 58.5, 10)}
    crowd = [Shape((50, 50, 20, 20), FALSE_ALARM, "a", i / 100) for i in range(60)]
    found = places(svg((200, 200), crowd, text=10))
    assert list(found) == [f"a {i / 100:.2f}" for i in (59, 58, 57, 56)]  # the others are in the tooltips
    assert svg((200, 200), crowd, text=10).count("<title>") == 60


def test_captions_stay_inside_the_picture():
    ((x, y, _),) = places(svg((100, 100), [Shape((95, -3, 20, 20), HIT, "name", 0.9)], text=10)).values()
    assert x + 0.55 * 10 * len("name 0.90") <= 100 and 5 < y < 15
