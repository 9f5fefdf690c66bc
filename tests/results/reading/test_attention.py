"""Attention maps and boxes of queries, read from what runs stored."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.results.detections.matching import read_truth
from experiments.results.detections.queries import SMALL, TALL, WIDE, closest, in_pixels, query_boxes, query_summary
from experiments.results.figures.why_figures import POINTS, attention_map, drawn_images, query_centres
from experiments.results.reading.attention import AttentionError, read_attention

ABOUT = {"images": "[7, 9]", "layer": "5", "step": "40"}


def maps(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for number in range(2):
        weights = rng.random((3, 2, 4))
        tensors[f"{number}.weights"] = (weights / weights.sum((1, 2), keepdims=True)).astype(np.float16)
        tensors[f"{number}.query"] = np.array([4, 0, 2], dtype=np.int16)
        tensors[f"{number}.extent"] = np.array([1.0, 1.25], dtype=np.float32)
    return tensors


def test_maps_come_by_image_and_query(tmp_path):
    tensors = maps()
    save_file(tensors, tmp_path / "maps", ABOUT)
    found = read_attention(tmp_path / "maps")
    assert (found.step, found.layer, list(found.images)) == (40, 5, [7, 9])
    image = found.images[9]
    assert image.queries == (4, 0, 2) and image.extent == (1.0, 1.25)
    np.testing.assert_array_equal(image.map_of(0), tensors["1.weights"][1].astype(np.float32))
    assert image.map_of(1) is None


@pytest.mark.parametrize("fault", ["text", "half", "metadata", "shapes", "missing"])
def test_a_file_that_is_none_is_named(tmp_path, fault):
    path, tensors, about = tmp_path / "maps", maps(), dict(ABOUT)
    if fault == "metadata":
        del about["step"]
    if fault == "shapes":
        tensors["1.query"] = tensors["1.query"][:2]
    if fault == "missing":
        del tensors["1.extent"]
    save_file(tensors, path, about)
    if fault == "text":
        path.write_text("no tensors")
    if fault == "half":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AttentionError, match=r"maps: .*"):
        read_attention(path)


def truth_of(number: int, width: int, height: int):
    images = [{"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(number)]
    return read_truth({"images": images, "annotations": [], "categories": [{"id": 3, "name": "cat"}]})


@pytest.fixture
def predicted(tmp_path):
    """Two queries in four images of 100 x 50 pixels: one stays at the left, the other one is anywhere."""
    boxes = [(0, [5.0, 5.0, 10.0, 20.0], 0.9), (1, [0.0, 0.0, 60.0, 20.0], 0.2)]
    found = [
        {"image_id": i, "category_id": 3, "query": query, "score": score,
         "bbox": [box[0] + 10 * i * query, box[1], box[2], box[3]]}
        for i in range(4) for query, box, score in boxes
    ]  # fmt: skip
    more = {"image_id": 1, "category_id": 3, "query": 5, "score": 0.1, "bbox": [0.0, 0.0, 10.0, 10.0]}
    nameless = {key: value for key, value in more.items() if key != "query"}
    found += [more, more | {"image_id": 77}, more | {"category_id": 4}, nameless]
    (tmp_path / "predictions.json").write_text(json.dumps(found))
    return tmp_path / "predictions.json", truth_of(4, 100, 50)


def test_boxes_of_queries_in_units_of_the_image(predicted):
    boxes = query_boxes(*predicted)
    assert len(boxes) == 9  # no unknown image or category, and none without a query
    first = boxes[(boxes["query"] == 0) & (boxes["image_id"] == 2)].iloc[0]
    assert first[["x", "y", "width", "height"]].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.4])
    shapes = boxes.groupby("query")["shape"].unique().str[0].to_dict()
    assert shapes == {0: TALL, 1: WIDE, 5: SMALL}
    assert boxes["category_id"].unique().tolist() == [3]


def test_summary_of_queries_by_score_with_the_spread_of_their_centres(predicted):
    table = query_summary(query_boxes(*predicted))
    assert table["query"].tolist() == [0, 1, 5]
    assert table["spread"].tolist() == pytest.approx([0, np.std([0.3, 0.4, 0.5, 0.6]), 0])


def test_no_detections_give_an_empty_frame(tmp_path):
    (tmp_path / "none.json").write_text("[]")
    boxes = query_boxes(tmp_path / "none.json", truth_of(1, 4, 4))
    assert boxes.empty and query_summary(boxes).empty and drawn_images(boxes) == (0, 0)


def test_every_nth_image_is_drawn_and_told(predicted, tmp_path):
    many = 2 * POINTS + 10
    found = [{"image_id": i, "category_id": 3, "query": 0, "score": 0.5, "bbox": [1, 1, 5, 6]} for i in range(many)]
    (tmp_path / "many.json").write_text(json.dumps(found))
    boxes = query_boxes(tmp_path / "many.json", truth_of(many, 10, 10))
    drawn = query_centres(boxes, [0])
    assert drawn_images(boxes) == (sum(len(trace.x) for trace in drawn.data if trace.x != (None,)), many)


def test_the_closest_box_is_the_one_with_the_largest_overlap(predicted):
    boxes = query_boxes(*predicted)
    image = boxes[boxes["image_id"] == 1]
    assert in_pixels(image, (100, 50))[0].tolist() == pytest.approx([5, 5, 10, 20])
    for query in (0, 1, 5):
        shown, overlap = closest(image, image[image["query"] == query])
        assert shown["query"].tolist() == [query] and overlap == pytest.approx(1)
    shown, overlap = closest(image[image["query"] != 0], image[image["query"] == 0])
    # query 5: 5 x 5 pixels shared of 275; query 1: 5 x 15 of 1325
    assert shown["query"].tolist() == [5] and overlap == pytest.approx(25 / (200 + 100 - 25))
    away = image[image["query"] == 5].assign(x=0.95, y=0.95)
    assert closest(image, away)[0].empty and closest(image.iloc[:0], away)[1] == closest(image, away[:0])[1] == 0


def test_a_map_lies_over_the_pixels_that_its_cells_saw(tmp_path, predicted):
    save_file(maps(), tmp_path / "maps", ABOUT)
    kept = read_attention(tmp_path / "maps").images[7]
    boxes = query_boxes(*predicted)
    detection = boxes[:1].assign(query=4)
    figure = attention_map(kept, detection, (80, 50), "data:image/png;base64,AA", "a <b>")
    (heatmap,) = figure.data
    # 4 columns cover 1.25 x 80 pixels, 2 rows 50
    assert list(heatmap.x) == pytest.approx([12.5, 37.5, 62.5, 87.5]) and list(heatmap.y) == pytest.approx([12.5, 37.5])
    np.testing.assert_allclose(np.array(heatmap.z), kept.map_of(4))
    assert figure.layout.annotations[0].text == "a &lt;b&gt;"
    assert not attention_map(kept, detection.assign(query=1), (80, 50), "", "no map").data
