"""People's way through the dashboard: click, move, follow a link."""

import json
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
import reference
from playwright.sync_api import expect

from experiments.results.reading.ablations import load_ablation, load_annotations, load_predictions, newest_ablation
from experiments.schema.store import load_store

VIEWS = {  # entry in the side bar -> heading
    "Ablation": "lr_clip",
    "Curves": "Curves",
    "Detections": "Detections",
    "Thresholds and errors": "Thresholds",
    "Why": "Why",
    "Sweeps": "Sweeps",
    "Compare runs": "Compare",
}


def test_server_listens_on_this_machine_alone(server):
    places = psutil.Process(server[1]).net_connections(kind="inet")
    assert {place.laddr.ip for place in places if place.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1920, "dark")])
def test_every_view_opens_from_the_side_bar_and_fits_the_window(tab, width, scheme):
    opened = tab(width=width, scheme=scheme)
    page = opened.open("")
    for entry, heading in VIEWS.items():
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=entry, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
        opened.settle()
        expect(page.get_by_test_id("stException")).to_have_count(0)
        expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)
        assert page.get_by_test_id("stMain").evaluate("e => e.scrollWidth - e.clientWidth") <= 0, entry


def test_a_link_opens_the_same_view(tab):
    first = tab()
    page = first.open("why?topic=Attention+maps")
    label = page.locator(".js-plotly-plot .annotation-text").first
    before = label.text_content()
    page.get_by_role("combobox", name="Detection").click()
    page.get_by_role("option").filter(has_not_text=before).first.click()  # two queries may read alike
    expect(label).not_to_have_text(before)
    chosen = page.get_by_test_id("stSelectbox").all_inner_texts()
    again = tab().open(page.url.removeprefix(first.address + "/"))
    expect(again.locator(".js-plotly-plot .annotation-text").first).to_have_text(label.text_content())
    assert again.get_by_test_id("stSelectbox").all_inner_texts() == chosen
    assert {"query", "topic", "ablation"} == set(parse_qs(urlsplit(page.url).query))


@pytest.fixture(scope="module")
def evaluated(trained):
    """arm -> COCOeval of its first seed's stored detections, at IoU 0.5 and all sizes."""
    store = load_store(trained / "mlflow.yaml")
    results = load_ablation(store, newest_ablation(store))
    truth = json.loads(load_annotations(store, results).read_text())
    runs = results.finished[results.finished["seed"] == 0].set_index("arm")["run_id"]
    found = {arm: json.loads(load_predictions(store, run_id).read_text()) for arm, run_id in runs.items()}
    assert len(found) == 2 and all(found.values())
    return {arm: reference.evaluated(truth, rows, iouThrs=[0.5], areaRng=[[0, 1e10]]) for arm, rows in found.items()}


def cells(page):
    return page.get_by_test_id("stDataFrame").first.locator("[role=gridcell]")  # behind a canvas


def expected_cells(evaluated, threshold):
    """The table of the page Detections, as COCOeval counts."""
    texts = []
    for arm, evaluator in evaluated.items():
        hits, alarms, misses = reference.counts(evaluator, threshold)
        precision, recall = hits / (hits + alarms), hits / (hits + misses)
        f1 = 2 * hits / (2 * hits + alarms + misses)
        texts += [arm, *(f"{v:.3f}" for v in (precision, recall, f1)), *map(str, (hits, alarms, misses))]
    return texts


def test_moving_the_threshold_changes_the_figures_to_those_of_pycocotools(tab, evaluated):
    scores = sorted(one["score"] for evaluator in evaluated.values() for one in evaluator.cocoDt.dataset["annotations"])
    middle = round(scores[len(scores) // 2], 2)
    opened = tab()
    page = opened.open(f"detections?threshold={middle:.2f}")
    expect(cells(page)).to_have_text(expected_cells(evaluated, middle))
    page.get_by_role("slider", name="Score threshold").focus()
    page.keyboard.press("ArrowLeft")
    expect(cells(page)).to_have_text(expected_cells(evaluated, round(middle - 0.01, 2)))
    page.get_by_role("button", name="none", exact=True).click()
    expect(cells(page)).to_have_text(expected_cells(evaluated, 0.0))
    assert reference.counts(next(iter(evaluated.values())), 0.0)[0] > 0  # there is something to compare


def test_keys_go_from_image_to_image_and_back(tab, evaluated):
    evaluator = next(iter(evaluated.values()))
    counted = reference.counts_by_image(evaluator, 0.0)
    first, second, *_ = counted

    def shown(image):
        hits, alarms, misses = counted[image]
        ends = ["" if number == 1 else "s" for number in (hits, alarms)]
        return f"{hits} hit{ends[0]}, {alarms} false alarm{ends[1]}, {misses} miss{'' if misses == 1 else 'es'}"

    page = tab().open("detections?threshold=0")
    page.locator(".card").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card .count").first).to_have_text(shown(first))
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card .count").first).to_have_text(shown(second))
    expect(page.get_by_role("textbox", name="Image id")).to_have_value(str(second))
    expect(page.get_by_role("button", name="Previous")).to_be_enabled()  # it is drawn after the text
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("textbox", name="Image id")).to_have_value(str(first))
    page.keyboard.press("Escape")
    expect(page.locator(".card")).to_have_count(12)
