"""Everything that is shown has a word of explanation."""

import pytest

from experiments.results.evidence import gather
from experiments.results.figures import curves
from experiments.results.reading.ablations import load_ablation
from experiments.results.reading.run_states import display_states, run_states
from experiments.results.report.glossary import explain
from experiments.results.report.tables import (
    arm_table,
    display_contrasts,
    display_effects,
    display_overview,
    with_differences,
)
from experiments.schema.metrics import AP


@pytest.fixture(scope="module")
def results(stored):
    return load_ablation(stored.store, stored.ablation(2))


def test_every_column_is_explained(stored, results):
    evidence = gather(stored.store, results.run_id, replicates=5)
    tables = [
        display_overview(with_differences(arm_table(results), results), results.design),
        display_contrasts(evidence.verdicts),
        display_effects(evidence.effects["val/AP"], AP),
        display_states(run_states(results, {}), AP),
    ]
    columns = {column for table in tables for column in table}
    assert {column for column in columns if not explain(column)} == set()


def test_every_metric_of_the_curves_is_explained():
    shown = [curves.LOSSES, curves.LOSS_PARTS, curves.RATES, curves.CLIPPING, curves.AP_KINDS, curves.MATCHING]
    assert {key for metrics in shown for key in metrics if not explain(key)} == set()
    assert "class a/b" in explain("val/AP/a/b") and explain("nobody knows") is None
    assert "average of the weights" in explain("val/ema/AP50") and "overlap" in explain("val/ema/AP50")
    assert "no_decay" in explain("train/lr_no_decay") and "backbone" in explain("train/lr_backbone")
