"""The diagnostics' words agree with docs/diagnostics.md, and each has a panel."""

import re
from pathlib import Path

import pandas as pd
import pytest

from experiments.results.figures.why_figures import layer_ap, signal
from experiments.results.signals import LAYER_AP, SECTIONS, explain, present

GROUPS = ("main", "backbone")  # of the optimiser, where a run names none of its own
DOCS = (Path(__file__).resolve().parents[2] / "docs/diagnostics.md").read_text()


def test_every_documented_diagnostic_is_explained_and_every_signal_is_documented():
    first_cells = re.findall(r"^\|([^|]*)\|", DOCS, re.M)
    documented = {key for cell in first_cells for key in re.findall(r"`([^`]*/[^`]*)`", cell)}
    documented = {key.replace("<i>", "<layer>").replace("<group>", group) for key in documented for group in GROUPS}
    ours = {signal.key for section in SECTIONS.values() for signal in section} | {LAYER_AP.key}
    assert ours <= documented
    # The first says nothing that the clipped share does not, the second is of float16 alone.
    assert documented - ours == {"train/clip_scale", "train/skipped_steps"}
    assert all(f"## {section}" in DOCS for section in SECTIONS)


def test_layers_are_told_apart_and_sorted_by_number():
    keys = [f"diagnostics/attention_entropy_{i}" for i in (10, 2, 0)]
    found = present("Attention", keys)
    assert [one.key for one in found] == keys[::-1]
    assert found[1].title == "attention entropy, layer 2"
    assert present("Matching", keys) == []


def test_explanations():
    assert explain("diagnostics/layer_instability_12").startswith("Queries an image whose object changes")
    assert explain("diagnostics/AP_layer_1") == LAYER_AP.text
    assert explain("val/AP") is None


@pytest.mark.parametrize("section", SECTIONS)
def test_every_signal_has_a_panel(section):
    for one in SECTIONS[section]:
        key = one.key.replace("<layer>", "0")
        frame = pd.DataFrame({"step": [1, 2], key: [0.1, 0.2]})
        (chosen,) = present(section, frame)
        figure = signal({("a", 0): frame}, chosen, ["a", "b"])
        assert [list(trace.y) for trace in figure.data] == [[0.1, 0.2]]
        assert signal({("b", 0): frame[["step"]]}, chosen, ["a", "b"]) is None


def test_AP_by_layer_is_the_last_one_with_the_range_over_seeds():
    key = "diagnostics/AP_layer_"
    frames = {
        ("a", seed): pd.DataFrame({"step": [1, 2], f"{key}0": [0.9, 0.1 * seed], f"{key}1": [None, 0.3]})
        for seed in (1, 2)
    }
    (trace,) = layer_ap(frames, ["a", "b"]).data
    assert list(trace.y) == pytest.approx([15, 30]) and list(trace.x) == ["0", "1"]
    assert list(trace.error_y.array) == pytest.approx([5, 0])
    assert layer_ap({("a", 1): pd.DataFrame({"step": [1]})}, ["a"]) is None
