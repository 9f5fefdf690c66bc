"""Reports of a store made by hand: the same bytes each time, nothing unescaped, and no trouble with what is missing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from experiments.results.bootstrap import match
from experiments.results.evidence import class_table, gather
from experiments.results.report.ablation_report import render, report, spoken
from experiments.results.report.command import main as detr_report
from experiments.results.report.latex import document, escape
from experiments.results.report.latex import table as latex_table
from experiments.results.report.markdown import table as markdown_table
from experiments.results.report.sections import Section
from experiments.results.report.tables import arm_table, contrast_table
from experiments.schema.store import StoreError

ARM = "recipe=abbreviated,clip=1.0"
OTHER = "recipe=official,clip=1.0"


@pytest.fixture(scope="module")
def parent(stored):
    """Three seeds; one run was never made and one diverged."""
    return stored.ablation(3, missing=((ARM, 1),), failed=((ARM, 2),))


@pytest.fixture(scope="module")
def evidence(stored, parent):
    return gather(stored.store, parent, replicates=50)


@pytest.fixture(scope="module")
def files(evidence):
    return render(evidence)


def test_the_same_store_gives_the_same_bytes(stored, parent, files):
    assert render(gather(stored.store, parent, replicates=50)) == files


def test_all_forms_are_there(files):
    assert set(files) == {
        "report.html", "report.md", "report.tex", "table.csv", "contrasts.csv", "effects.csv", "classes.csv",
        "conditions.csv",
    }  # fmt: skip


def test_the_page_needs_nothing_from_outside(files):
    page = re.sub(r"<script>.*?</script>", "", files["report.html"], flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert files["report.html"].count("plotly.js v") == 1
    ids = re.findall(r'id="(figure-[a-z]+)"', page)
    assert ids == [f"figure-{n}" for n in ("outcome", "differences", "effects", "losses", "rates", "clipping",
                                           "entropy", "matching", "classes")]  # fmt: skip


class Tags(HTMLParser):
    """Collects the tags of a page, and what scripts hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self.inside = False


def test_a_class_called_script_is_text(files):
    parser = Tags()
    parser.feed(files["report.html"])
    assert not any(script.startswith("alert(1)") for script in parser.scripts)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in files["report.html"]
    assert "<script>" not in files["report.md"]


def test_figures_from_fewer_runs_than_planned_say_so(files):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", files["report.html"])
    assert len(captions) == 9 and all("INCOMPLETE: 10 of 12 planned runs." in caption for caption in captions)
    assert "| 1/3 " in files["report.md"] and "1 seed of 3 planned" in files["report.md"]
    assert "1 failed" in files["table.csv"]


def test_a_complete_ablation_says_that_too(stored):
    page = render(gather(stored.store, stored.ablation(1), replicates=5))["report.md"]
    assert "All 4 planned runs." in page and "INCOMPLETE" not in page


def test_conditions_are_found(evidence):
    found = set(evidence.conditions[["arm", "seed", "condition"]].itertuples(index=False, name=None))
    falling = {(arm, seed, "under-trained") for arm in ("recipe=official,clip=0.1", OTHER) for seed in range(3)}
    assert found == falling | {(ARM, 2, "diverged")}


def test_figures_of_the_tables_are_those_of_the_store(stored, evidence):
    table = arm_table(evidence.results, evidence.images).set_index("arm")
    done = evidence.results.finished
    assert table["N"].tolist() == [3, 3, 3, 1] and table["planned"].tolist() == [3] * 4
    expected = done[done["arm"] == OTHER]["val/AP"]
    assert table.loc[OTHER, "AP"] == expected.mean() and table.loc[OTHER, "AP_sd"] == expected.std()
    assert table["AP_images_low"].le(table["AP_images"]).all() and table["AP_images_high"].ge(table["AP_images"]).all()
    samples = evidence.images["val/AP"]
    assert table.loc[OTHER, "AP_bias"] == pytest.approx(samples.replicates[OTHER].mean() - expected.mean())
    assert (table["AP_images"] + table["AP_bias"]).tolist() == pytest.approx(table["AP"].tolist())
    assert pd.isna(table.loc[ARM, "AP_seeds_low"])
    contrasts = contrast_table(evidence.verdicts)
    assert contrasts["role"].tolist() == ["primary", "secondary", *["exploratory"] * 3]
    assert contrasts["n"].tolist() == [1, 1, 3, 3, 1]


def test_classes_of_equal_predictions_do_not_differ(stored, evidence, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps([{**a, "score": 0.9} for a in stored.content["annotations"]]))
    contrast = evidence.verdicts[2].contrast
    perfect = [match(stored.content, path)]
    table = class_table(dict.fromkeys([*contrast.arms, *contrast.against], perfect), contrast, 20)
    assert (table[["difference", "low", "high"]] == 0).all(axis=None) and (table["arm"] == 1).all()


def test_images_stand_beside_ground_truth_at_three_thresholds(files, evidence):
    page = files["report.html"]
    assert len(evidence.scenes) == 4 and page.count("ground truth: 2 boxes") == 4
    for text in ("score from 0.75 on", "score from 0.50 on", "no threshold"):
        assert page.count(f"clip=0.1, {text}") == page.count(f"{OTHER}, {text}") == 4
    assert page.count('href="data:image/png;base64') == 4


def test_missing_images_are_told(stored, tmp_path):
    parent = stored.ablation(1, images=str(tmp_path))
    page = render(gather(stored.store, parent, replicates=5))["report.html"]
    assert page.count("the image file is missing; the boxes are drawn without it.") == 4


def test_missing_predictions_are_told(stored):
    arms = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]
    parent = stored.ablation(1, silent=tuple((arm, 0) for arm in arms))
    found = gather(stored.store, parent)
    assert not found.images and found.classes.empty and not found.scenes
    text = render(found)["report.md"]
    assert "No predictions were stored by recipe=official,clip=0.1, seed 0;" in text
    assert "There are no intervals over images." in text
    partly = gather(stored.store, stored.ablation(2, silent=((OTHER, 0), (OTHER, 1))), replicates=5)
    assert list(partly.images["val/AP"].observed.index) == [
        arm for arm in arms if arm != OTHER
    ] and "report.html" in render(partly)


def test_a_whole_arm_may_be_missing(stored):
    found = gather(stored.store, stored.ablation(2, missing=((ARM, 0), (ARM, 1))), replicates=5)
    files = render(found)
    assert "Effects and interactions cannot be computed: not a full factorial" in files["report.md"]
    assert "effects.csv" not in files and "0/2" in files["report.md"]


def test_nothing_has_run_yet(stored):
    arms = [f"recipe={r},clip={c}" for r in ("official", "abbreviated") for c in ("0.1", "1.0")]
    found = gather(stored.store, stored.ablation(1, missing=tuple((arm, 0) for arm in arms)))
    assert "INCOMPLETE: 0 of 4 planned runs." in render(found)["report.md"]
    assert "no seed has finished" in spoken(found.verdicts)[0]


def test_published_rows_stay_marked_as_another_setting(files):
    assert files["report.md"].count("another setting: COCO val2017, ResNet-50, full schedule") == 4
    assert "42.0" in files["report.md"] and "DETR" not in files["table.csv"]


def test_the_title_names_the_horizon(files):
    head = "lr_clip: equal steps (20), epochs (10) and fraction of the schedule (2 %)"
    assert files["report.md"].startswith(f"# {head}\n") and f"<h1>{head}</h1>" in files["report.html"]


# LaTeX


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50 % of a_b & $c #1", r"50 \% of a\_b \& \$c \#1"),
        (r"\input{x} ~^", r"\textbackslash{}input\{x\} \textasciitilde{}\textasciicircum{}"),
        ("−0.5 ± 1 – naïve", r"$-$0.5 $\pm$ 1 -- naïve"),
        ("line\nbreak\x00", "line break"),
        ("猫", "[U+732B]"),
    ],
)
def test_latex_prints_text_as_it_is(text, latex):
    assert escape(text) == latex


def test_latex_tables_are_booktabs():
    made = latex_table(pd.DataFrame({"a_b": ["x & y"], "AP": ["1.0"], "long": ["a=1,b=2 " * 8]}))
    assert r"a\_b & AP & long \\" in made and r"x \& y & 1.0 & a=1,\allowbreak{}b=2" in made
    columns = r"\begin{tabular}{lr>{\raggedright\arraybackslash}p{4.2cm}}"
    assert all(part in made for part in (r"\toprule", r"\midrule", r"\bottomrule", columns))


def test_latex_is_balanced(files):
    text = files["report.tex"]
    opened, closed = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed) and r"\usepackage{booktabs}" in text
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}") and "#" not in bare and "&lt;" not in text


@pytest.mark.skipif(
    not any(map(shutil.which, ("pdflatex", "tectonic"))), reason="neither pdflatex nor tectonic is installed"
)
def test_latex_compiles(files, tmp_path):
    odd = Section(
        "Odd ~^ \\ | text", ['猫 naïve <b> "quoted" `tick`'], ["[item]", "% & # _ {"], [pd.DataFrame({"a": []})]
    )
    for name, text in (("report", files["report.tex"]), ("odd", document("Odd", [odd]))):
        (tmp_path / f"{name}.tex").write_text(text)
        command = (
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
        )
        done = subprocess.run([*command, f"{name}.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
        assert (tmp_path / f"{name}.pdf").stat().st_size > 1000


def test_markdown_tables_hold_any_text():
    made = markdown_table(pd.DataFrame({"a|b": ["<b> | x\ny"]}))
    assert made.splitlines()[0] == r"| a\|b             |" and r"&lt;b&gt; \| x y" in made


# the command


def test_the_command_writes_the_newest_report_and_says_the_verdicts(stored, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DETR_STORE", str(stored.folder / "mlflow.yaml"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)
    stored.ablation(1, name="asked")
    stored.ablation(1, name="newest")
    assert detr_report(["asked", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("primary: clip 1.0 against 0.1: one seed") and "report.html" in said
    assert (tmp_path / "out" / "report.md").read_text().startswith("# asked:")
    assert detr_report([]) == 0
    assert next((stored.folder / "runs").glob("*/report/report.md")).read_text().startswith("# newest:")


def test_an_unknown_ablation_is_one_sentence(stored, capsys, monkeypatch):
    monkeypatch.setenv("DETR_STORE", str(stored.folder / "mlflow.yaml"))
    assert detr_report(["nothing"]) == 2
    assert "has no ablation named 'nothing'" in capsys.readouterr().err
    with pytest.raises(StoreError):
        report(stored.store, "nothing", None)


def test_a_report_is_not_written_outside_the_run_root(stored, tmp_path):
    """As where the store is another machine's, or somebody made it up."""
    stored.ablation(1, name="elsewhere")
    store = replace(stored.store, run_root=tmp_path / "runs")
    with pytest.raises(StoreError, match=r"is not below the run root .*--output"):
        report(store, "elsewhere", None)
    assert report(store, "elsewhere", tmp_path / "out")[1] == tmp_path / "out"
