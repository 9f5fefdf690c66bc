"""The row audit of the read side says the same as the one of the core, which it may not import."""

import pytest

import detr.audit
from experiments.results import audit
from experiments.results.report.tables import REFERENCES

ROWS = REFERENCES.to_dict("records")


def test_constants_are_those_of_the_core():
    for name in ("STRATA", "STRATA_TOLERANCE", "STRATA_MIN_IMAGES", "COCO_AREA_LIMITS"):
        assert getattr(audit, name) == getattr(detr.audit, name)


@pytest.mark.parametrize("row", ROWS, ids=[row["arm"] for row in ROWS])
def test_published_rows_pass_but_for_the_study(row):
    metrics = {key: row[key] for key in ("AP", "AP50", "AP75", "APS", "APM", "APL")}
    metrics = {key: value for key, value in metrics.items() if value is not None and value == value}
    is_study = "abbreviated" in row["arm"]
    assert bool(audit.audit_row(metrics, is_coco=True)) == is_study
    assert any(finding.passed is False for finding in detr.audit.audit_metrics(metrics)) == is_study
