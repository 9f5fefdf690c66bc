"""Published rows and runs of an ablation are audited by one and the same arithmetic."""

import pytest

from experiments.results import conditions
from experiments.results.evidence import gather
from experiments.results.reading.ablations import load_ablation
from experiments.results.report.tables import reference_table, references


def test_every_published_row_has_its_source_and_passes_but_for_the_study():
    table = reference_table()
    is_study = table["arm"].str.contains("abbreviated")
    assert table["source"].str.len().gt(0).all() and is_study.sum() == 1
    assert table.loc[~is_study, "metric audit"].eq("passed").all()
    assert table.loc[is_study, "metric audit"].item() == "failed: AP 16.7, by its strata 10.4"
    assert references().drop(columns=["arm", "source"]).max().max() <= 1


@pytest.mark.parametrize(("metric", "value", "said"), [("val/AP75", 0.999, "AP50 >= AP75"), ("val/AP", 42.0, "0..1")])
def test_a_run_whose_figures_cannot_stand_together_is_told(stored, metric, value, said):
    parent = stored.ablation(1)
    run = load_ablation(stored.store, parent).runs.iloc[0]
    assert gather(stored.store, parent, replicates=5).conditions["condition"].ne(conditions.AUDIT_FAILED).all()
    stored.client.log_metric(run["run_id"], metric, value, step=21)
    found = gather(stored.store, parent, replicates=5).conditions
    failed = found[found["condition"] == conditions.AUDIT_FAILED]
    assert failed[["arm", "seed"]].values.tolist() == [[run["arm"], 0]]
    assert said in failed["reason"].item() or "overlaps by 50 %" in failed["reason"].item()
