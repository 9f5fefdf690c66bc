"""The page of an ablation: figures as the store holds them, the state of every run, and names that are only text."""

import re

import pytest

from dashboard.views.ablation import PARTS
from experiments.results.evidence import gather
from experiments.results.reading.ablations import load_ablation
from experiments.results.report.tables import references

ARM, BASELINE = "recipe=abbreviated,clip=1.0", "recipe=official,clip=0.1"


@pytest.fixture(scope="module")
def parent(stored):
    """Two seeds; one run was never made, one diverged, one left no predictions."""
    return stored.ablation(2, missing=((ARM, 1),), failed=((ARM, 0),), silent=(("recipe=official,clip=1.0", 0),))


@pytest.fixture
def test_page(page, parent):
    return page("ablation", parent)


def frame(test, *columns: str):
    """The first table that has these columns."""
    return next(one.value for one in test.dataframe if {*columns} <= {*one.value.columns})


def plain(test) -> str:
    elements = (*test.markdown, *test.caption, *test.info, *test.warning)
    return " ".join(one.value for one in elements).replace("\\", "")


def test_the_table_holds_every_arm_with_n_and_the_published_rows_apart(stored, parent, test_page):
    table, done = frame(test_page, "arm", "AP50"), load_ablation(stored.store, parent).finished
    assert len(table) == 4 + len(references())
    row = table.set_index("arm").loc[BASELINE]
    values = 100 * done.loc[done["arm"] == BASELINE, "val/AP"]
    assert row["AP"] == f"{values.mean():.1f} ± {values.std():.1f}" and row["seeds"] == "2/2"
    assert row["difference (seeds)"] == "baseline"
    assert table.set_index("arm").loc[ARM, ["seeds", "AP", "note"]].tolist() == ["0/2", "–", "1 failed"]
    assert (
        table.tail(3)["note"].str.startswith("another setting").all() and not table.head(4)["note"].str.len().sum() > 8
    )


def test_verdicts_stand_with_their_evidence_and_reasons(stored, parent, test_page):
    said = plain(test_page)
    for verdict in gather(stored.store, parent).verdicts:
        assert verdict.contrast.described in said and "; ".join(verdict.evidence()) in said
        assert all(reason in said for reason in verdict.reasons)


def test_every_run_has_its_state(page, parent):
    test_page = page("ablation", parent, {"part": "Runs"})
    states = frame(test_page, "state", "time left")
    assert states["state"].value_counts().to_dict() == {"finished": 6, "diverged": 1, "planned": 1}
    assert "the loss is nan" in states["error"].str.cat()
    assert "6 finished" in str(test_page.get("progress")[0].proto)


def test_what_is_missing_is_told(test_page):
    said = plain(test_page)
    assert "INCOMPLETE: 6 of 8 planned runs." in said
    assert "No predictions were stored by recipe=official,clip=1.0, seed 0." in said


def test_the_report_can_be_taken(test_page):
    assert "Report as one HTML page" in [one.proto.label for one in test_page.get("download_button")]


def test_a_running_ablation_is_followed(stored, page):
    running = stored.ablation(1, missing=((ARM, 0),))
    assert "is read again every" in plain(page("ablation", running))
    assert "is read again every" not in plain(page("ablation", stored.ablation(1)))


def test_nothing_has_finished_yet(stored, page):
    arms = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]
    test = page("ablation", stored.ablation(1, missing=tuple((arm, 0) for arm in arms)), {"part": "Runs"})
    assert "No run has finished yet" in plain(test)
    assert frame(test, "state", "time left")["state"].tolist() == ["planned"] * 4


def test_names_are_text(stored, page):
    odd = {"<script>alert(1)</script>": {"recipe": "official", "clip": "0.1"},
           "![x](http://example.org) $a$ :red[b]": {"recipe": "official", "clip": "1.0"}}  # fmt: skip
    changes = {"name": "a_b *c*", "question": "Is [this](http://example.org) text?", "baseline": next(iter(odd))}
    made = stored.ablation(1, arms=odd, settings={arm: {"x": 1} for arm in odd}, primary=None, **changes)
    for part in PARTS:
        test = page("ablation", made, {"part": part})
        written = " ".join(one.value for one in (*test.markdown, *test.caption))
        assert "this" in written and not re.search(r"(?<!\\)(\]\(|[<$]|:red)", written)
    assert test.title[0].value == "a\\_b \\*c\\*"
    assert frame(test, "arm", "AP50")["arm"].tolist()[:2] == list(odd)


def test_the_page_writes_nothing(stored, parent, page):
    before = {path: path.stat().st_mtime_ns for path in stored.folder.rglob("*") if path.is_file()}
    page("ablation", parent)
    after = {path: path.stat().st_mtime_ns for path in stored.folder.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if not path.name.startswith("mlflow.db-")} == {
        path: time for path, time in before.items() if not path.name.startswith("mlflow.db-")
    }


@pytest.mark.parametrize("part", PARTS)
def test_only_the_open_part_is_drawn(page, parent, part):
    test = page("ablation", parent, {"part": part})
    drawn = {one.label for one in test.tabs if len(one.children)}
    assert drawn == {part}


@pytest.mark.parametrize(("metric", "label"), [("val/AP50", "AP50"), ("val/loss", "val loss"), ("seconds", "seconds")])
def test_the_page_is_of_the_metric(stored, page, metric, label):
    made = stored.ablation(1, metric=metric)
    for part in PARTS:
        test = page("ablation", made, {"part": part})
        assert test.subheader[0].value == f"{label} by arm" and f"judged by {label}" in plain(test)
    overview = frame(test, "arm", "interval over seeds")
    assert list(overview)[2] == label and overview["difference (seeds)"][1].endswith("(1)")
    assert re.search(rf"difference \S+ {label}, 1 seed", plain(test))
    assert label in frame(test, "state", "time left")
