"""The audit accepts published rows, flags the study's, and knows when a check does not apply."""

import pytest

from detr.audit import audit, audit_metrics, audit_predictions, other_strata
from detr.coco_names import COCO_NAMES

STUDY = {"AP": 0.1667, "AP50": 0.3082, "AP75": 0.1603, "APS": 0.01186, "APM": 0.0748, "APL": 0.2429}
# AP, APS, APM, APL in percent on COCO val2017: DETR paper, table 1 and the README of Conditional DETR
PUBLISHED = {
    "DETR-R50": (42.0, 20.5, 45.8, 61.1),
    "DETR-R50, 50 epochs": (34.8, 13.9, 37.3, 54.4),
    "DETR-DC5-R50": (43.3, 22.5, 47.3, 61.1),
    "DETR-R101": (43.5, 21.9, 48.0, 61.8),
    "DETR-R101, README": (43.5, 21.0, 48.0, 61.8),
    "DETR-R101, 50 epochs": (36.9, 15.5, 40.6, 55.6),
    "DETR-DC5-R101": (44.9, 23.7, 49.5, 62.3),
    "Conditional DETR-R50": (41.0, 20.6, 44.3, 59.3),
    "Conditional DETR-DC5-R50": (43.7, 23.9, 47.6, 60.1),
    "Conditional DETR-R101": (42.8, 21.7, 46.6, 60.9),
    "Conditional DETR-DC5-R101": (45.0, 26.1, 48.9, 62.8),
    "Faster R-CNN-FPN": (40.2, 24.2, 43.5, 52.0),
}


def failures(findings):
    return [finding.name for finding in findings if finding.passed is False]


def outcome(findings, name):
    return next(finding for finding in findings if finding.name.startswith(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_pass(name):
    row = dict(zip(("AP", "APS", "APM", "APL"), (x / 100 for x in PUBLISHED[name]), strict=True))
    findings = audit_metrics(row)
    assert failures(findings) == []
    assert outcome(findings, "AP against").passed is True


def test_full_official_row_passes_every_check():
    row = {"AP": 0.420, "AP50": 0.624, "AP75": 0.442, "APS": 0.205, "APM": 0.458, "APL": 0.611}
    findings = audit_metrics(row | {"AR1": 0.333, "AR10": 0.533, "AR100": 0.574})
    assert all(finding.passed for finding in findings)


def test_the_study_is_flagged_for_its_strata_alone():
    findings = audit_metrics(STUDY)
    assert failures(findings) == ["AP against APS, APM, APL"]
    assert "16.7, by its strata 10.4: off by +6.2 points" in outcome(findings, "AP against").reason


def test_strata_of_another_set_are_not_judged():
    finding = outcome(audit_metrics(STUDY, other_strata="these are cells"), "AP against")
    assert finding.passed is None
    assert finding.reason == "does not apply: these are cells"


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"AP75": 0.45, "AP50": 0.40, "AP": 0.40}, "AP50 >= AP75"),
        ({"AP": 0.32}, "AP <= AP50"),
        ({"AP": 0.30}, "AP between bounds of AP50 and AP75"),
        ({"AP": 0.05}, "AP between bounds of AP50 and AP75"),
        ({"AR1": 0.5, "AR10": 0.4, "AR100": 0.6}, "maxDets 1, 10, 100"),
        ({"AR1": 0.05, "AR10": 0.08, "AR100": 0.10}, "maxDets 1, 10, 100"),
        ({"AP": 16.67}, "range"),
        ({"AP": float("nan")}, "range"),
    ],
)
def test_impossible_figures(changes, failed):
    assert failed in failures(audit_metrics(STUDY | changes, other_strata="not COCO"))


def test_figures_that_are_missing_or_undefined_are_not_judged():
    findings = audit_metrics({"AP": 0.2, "AP50": 0.3, "APS": -1.0, "AP/cat": 7.0})
    assert failures(findings) == []
    assert "no APS, APM, APL" in outcome(findings, "AP against").reason
    assert outcome(findings, "AP50 >= AP75").passed is None


def content(areas, images=2, side=100, categories=(1,)):
    """Annotations with boxes of 10 x 10 pixels and the given areas."""
    return {
        "images": [{"id": i, "width": side, "height": side} for i in range(images)],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": 1, "bbox": [5, 5, 10, 10], "area": a, "iscrowd": 0}
            for i, a in enumerate(areas)
        ],
        "categories": [{"id": c, "name": str(c)} for c in categories],
    }


def detections(images, per_image=1, box=(5, 5, 10, 10)):
    return [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": 0.5} for i in images for _ in range(per_image)
    ]


@pytest.mark.parametrize(
    ("areas", "passed", "reason"),
    [
        ([60.0, 95.0], True, "masks"),
        ([100.0, 100.0], True, "boxes"),
        ([60.0, 270.0], False, "exceed their boxes"),
        ([21.0] * 120, False, "no annotation area is more than 0.21"),
        ([], None, "no annotation"),
    ],
)
def test_area_convention(areas, passed, reason):
    finding = outcome(audit_predictions(content(areas), detections([0, 1])), "area convention")
    assert finding.passed is passed
    assert reason in finding.reason


def test_resized_boxes_are_noticed():
    findings = audit_predictions(content([60.0]), detections([0, 1], box=(180, 180, 60, 60)))
    assert failures(findings) == ["detections in original pixels"]


def test_more_than_100_detections_an_image():
    assert failures(audit_predictions(content([60.0]), detections([0, 1], 100))) == []
    findings = audit_predictions(content([60.0]), detections([0], 101) + detections([1]))
    assert failures(findings) == ["at most 100 detections an image"]


def test_images_without_predictions():
    findings = audit_predictions(content([60.0], images=4), detections([0, 2]))
    assert failures(findings) == ["images with predictions"]
    assert outcome(findings, "images with").reason.startswith("2 of 4")


def test_no_detections_at_all():
    findings = audit_predictions(content([60.0]), [])
    assert failures(findings) == ["images with predictions"]
    assert outcome(findings, "detections in").passed is None


def test_when_the_strata_are_those_of_coco():
    coco = content([60.0], images=2000, categories=tuple(COCO_NAMES))
    assert other_strata(coco) == ""
    assert "100 and 300" in other_strata(coco, (100.0, 300.0))
    assert "too few" in other_strata(coco | {"images": coco["images"][:100]})
    assert "80 classes" in other_strata(content([60.0], images=2000))


def test_audit_of_an_evaluation_joins_both_parts():
    coco = content([60.0], images=2000, categories=tuple(COCO_NAMES))
    assert failures(audit(coco, detections(range(2000)), STUDY)) == ["AP against APS, APM, APL"]
    small = content([60.0])
    assert failures(audit(small, detections([0]), STUDY)) == ["images with predictions"]


def test_the_arithmetic_needs_no_torch(run_python):
    code = "import detr.audit, sys; print([m for m in ('torch', 'pycocotools', 'numpy') if m in sys.modules])"
    assert run_python(code) == "[]"
