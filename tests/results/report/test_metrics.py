"""An ablation may be judged by any logged metric: verdicts, tables, figures and report show that one."""

import numpy as np
import pytest
from stored import AREA_LIMITS, CLASSES, NUM_IMAGES

from experiments.results.bootstrap import ap, bootstrap_ap
from experiments.results.evidence import gather
from experiments.results.reading.ablations import load_predictions
from experiments.results.report.ablation_report import render
from experiments.results.report.sections import sections
from experiments.results.report.tables import arm_table, column, display_overview, terminal_table, with_differences
from experiments.results.verdicts import seed_difference

LAST = CLASSES[2]
KINDS = {  # metric -> label, whether it has intervals over images
    "val/AP50": ("AP50", True),
    "val/APL": ("APL", True),
    f"val/AP/{LAST}": (f"AP of {LAST}", True),
    "val/loss": ("val loss", False),
    "seconds": ("seconds", False),
}


def of_metric(stored, metric):
    return gather(stored.store, stored.ablation(2, metric=metric), replicates=20)


@pytest.fixture(scope="module", params=KINDS)
def judged(request, stored):
    return request.param, of_metric(stored, request.param)


def test_differences_are_those_of_the_metric(judged):
    key, evidence = judged
    label, has_images = KINDS[key]
    first, metric = evidence.verdicts[0], evidence.results.design.metric
    done = evidence.results.finished.set_index(["arm", "seed"])[metric.column]
    by_seed = [
        np.mean([done[a, s] - done[b, s] for a, b in first.contrast.pairs]) for s in evidence.results.design.seeds
    ]
    assert first.metric.label == label and first.seeds.estimate == pytest.approx(np.mean(by_seed))
    again = seed_difference(evidence.results.finished, first.contrast, metric)
    assert list(vars(first.seeds).values()) == pytest.approx(list(vars(again).values()), nan_ok=True)
    assert (first.images.n == NUM_IMAGES) is has_images and bool(evidence.images) is has_images
    spread = ", interval" if first.seeds.se > 0 else ", 2 seeds; all seeds gave the same result"
    assert f"difference {metric.difference(first.seeds.estimate)} {label}{spread}" in first.text


def test_tables_lead_with_the_metric(judged):
    key, evidence = judged
    design, table = evidence.results.design, arm_table(evidence.results, evidence.images)
    name = column(design.metric)
    done = evidence.results.finished.groupby("arm", sort=False)[design.metric.column]
    assert table[name].tolist() == pytest.approx(done.mean().tolist())
    assert (table[f"{name}_seeds_low"].notna() == (table[f"{name}_sd"] > 0)).all()
    assert (table[f"{name}_images_low"].notna() == KINDS[key][1]).all()
    shown = display_overview(with_differences(table, evidence.results), design)
    assert list(shown)[2:4] == [KINDS[key][0], "interval over seeds"] and "AP" in shown
    assert KINDS[key][0] in terminal_table(table, design)


def test_the_report_is_of_the_metric(judged):
    key, evidence = judged
    label, has_images = KINDS[key]
    files = render(evidence)
    text = files["report.md"]
    assert f"## {label} by arm" in text and "arms are compared at equal steps (20)" in text
    assert f"by {label}. Baseline" in text and f"Effects on {label}" in text
    assert (f"{label}: only AP has intervals over images." in text) is not has_images
    titles = [plot.figure.layout.xaxis.title.text for part in sections(evidence) for plot in part.plots[:1]]
    heading = evidence.results.design.metric.heading
    assert {heading, f"difference of {heading}", f"effect on {heading}"} <= set(titles)
    assert f",{key}," in files["contrasts.csv"]


def test_intervals_over_images_are_those_of_the_area_range(stored):
    """At the run's own area limits, not COCO's."""
    evidence = of_metric(stored, "val/APL")
    run = evidence.results.finished.iloc[0]
    path = load_predictions(stored.store, run["run_id"])
    assert run["val/APL"] == ap(stored.content, path, metric="APL", area_limits=AREA_LIMITS)
    arm = run["arm"]
    runs = evidence.results.finished[evidence.results.finished["arm"] == arm]["run_id"]
    files = [load_predictions(stored.store, run_id) for run_id in runs]
    options = {"metric": "APL", "area_limits": AREA_LIMITS, "resample_seeds": False}
    samples = evidence.images["val/APL"]
    assert (samples.replicates[arm] == bootstrap_ap(stored.content, {arm: files}, 20, 0, **options)[arm]).all()
    assert samples.observed[arm] == pytest.approx(evidence.results.finished.groupby("arm")["val/APL"].mean()[arm])
    assert evidence.by_class.key == "val/APL" and len(evidence.classes) == len(CLASSES)


def test_several_metrics_stand_side_by_side(stored):
    evidence = of_metric(stored, ["val/AP", {"name": "val/loss", "margin": 0.5}])
    assert [v.metric.key for v in evidence.verdicts[:2]] == ["val/AP", "val/loss"]
    assert set(evidence.effects) == {"val/AP", "val/loss"} and set(evidence.images) == {"val/AP"}
    files = render(evidence)
    assert "Margin of equivalence: AP 1, val loss 0.5" in files["report.md"]
    for name in ("outcome", "outcome-2", "differences", "differences-2", "effects", "effects-2"):
        assert f'id="figure-{name}"' in files["report.html"]


def test_a_metric_that_no_run_logged_is_a_condition(stored):
    evidence = of_metric(stored, {"name": "val/foo", "better": "higher"})
    missing = evidence.conditions[evidence.conditions["condition"] == "metric not logged"]
    assert len(missing) == 8 and missing["reason"].str.startswith("there is no val/foo; there is val/AP, ").all()
    assert "no seed has finished in all its arms" in evidence.verdicts[0].text
    assert "metric not logged: 8 of 8 runs" in evidence.verdicts[0].text
    assert "## foo" not in (text := render(evidence)["report.md"]) and "val foo by arm" in text


def test_a_class_that_there_is_not_is_told(stored):
    evidence = of_metric(stored, "val/AP/nobody")
    assert not evidence.images and any("val/AP/nobody has no intervals" in note for note in evidence.notes)
    assert "report.html" in render(evidence)
