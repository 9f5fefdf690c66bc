"""What the queries of the decoder do, for one or two arms: parts of the page Why."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import choices, data, export, states
from experiments.results.detections.matching import GroundTruth
from experiments.results.detections.queries import closest, query_summary
from experiments.results.evidence import image_folder
from experiments.results.figures import why_figures
from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.attention import Attention, AttentionError
from experiments.schema.contrasts import contrasts

PAGE = 20  # queries
MAX_SIDE = 800  # pixels of a picture
NO_ARM = "–"


def query_boxes(results: AblationResults) -> None:
    """Where each query's boxes are, a square a query as in the DETR paper."""
    st.caption(
        "Each square is one query; a point is the centre of its box in one validation image. A query that has learned "
        "its part fills a region. One that fills the whole square, or sits on the same point in every image, has not. "
        "The surest come first, their mean score in parentheses."
    )
    runs = _runs(results)
    found = {arm: _boxes(results, arm, run_id) for arm, run_id in runs.items()}
    boxes = {arm: frame for arm, frame in found.items() if frame is not None}
    most = max((frame["query"].nunique() for frame in boxes.values()), default=0)
    first = 0
    if most > PAGE:
        first = st.selectbox("Queries", range(0, most, PAGE), key="queries", bind=choices.BIND,
                             format_func=lambda i: f"{i + 1} to {min(i + PAGE, most)}")  # fmt: skip
    for arm, frame in boxes.items():
        st.markdown(f"**{states.plain(arm)}**")
        drawn, images = why_figures.drawn_images(frame)
        shown = query_summary(frame)["query"].iloc[first : first + PAGE].tolist()
        how_many = f"all {images} images" if drawn == images else f"{drawn} of {images} images; the CSV holds all"
        export.figure(why_figures.query_centres(frame, shown), f"queries_{arm}", f"Boxes in {how_many}.", frame=frame)


def attention_maps(results: AblationResults) -> None:
    """The attention of a chosen detection over its image, and of the one in another arm that lies on it."""
    st.caption(
        "Where the last decoder layer looked to make a detection, averaged over its heads: bright where the weights "
        "are large. A query that has found an object looks at its outline; one that looks everywhere has not."
    )
    runs = _runs(results)
    maps = _maps(results, runs)
    boxes = {arm: frame for arm in maps if (frame := _boxes(results, arm, runs[arm])) is not None}
    truth = data.truth(results)
    if not boxes or truth is None:
        return
    n = _image(truth, [maps[arm] for arm in boxes])
    if n is None:
        return
    mapped = {arm: _mapped(frame, maps[arm], truth.image_ids[n]) for arm, frame in boxes.items()}
    first = next(iter(mapped))
    chosen = _detection(truth, mapped[first])
    size = int(truth.sizes[n, 0]), int(truth.sizes[n, 1])
    url, note = data.image(image_folder(results), truth.files[n], size, MAX_SIDE)
    if note:
        st.caption(f"{states.plain(note)}: the map is drawn without the image.")
    for column, (arm, frame) in zip(st.columns(len(mapped)), mapped.items(), strict=True):
        with column:
            st.markdown(f"**{states.plain(arm)}**")
            shown, overlap = closest(frame, chosen)
            if shown.empty:
                st.caption("None of this arm's detections with a map lies there.")
                continue
            kept = maps[arm].images[truth.image_ids[n]]
            figure = why_figures.attention_map(kept, shown, size, url, _labels(truth, shown)[0])
            which = "" if frame is mapped[first] else f" The detection that lies on the chosen one: IoU {overlap:.2f}."
            caption = f"Decoder layer {maps[arm].layer}, step {maps[arm].step}.{which}"
            export.figure(figure, f"attention_{arm}", caption)


def _runs(results: AblationResults) -> dict[str, str]:
    """Arm -> run of the chosen seed, for the arm or the two arms that are chosen."""
    finished = results.finished
    arms = [arm for arm in results.design.arms if arm in set(finished["arm"])]
    pair = next((c.pairs[0] for c in contrasts(results.design) if set(c.pairs[0]) <= set(arms)), (arms[0], NO_ARM))
    left, middle, right = st.columns(3)
    arm = left.selectbox("Arm", arms, index=arms.index(pair[0]), key="arm", bind=choices.BIND)
    others = [NO_ARM, *arms]
    beside = middle.selectbox("Beside it", others, index=others.index(pair[1]), key="beside", bind=choices.BIND)
    wanted = [arm] if beside in (NO_ARM, arm) else [arm, beside]
    runs = {one: finished[finished["arm"] == one].set_index("seed")["run_id"] for one in wanted}
    seeds = sorted(set.intersection(*(set(rows.index) for rows in runs.values())))
    if not seeds:
        states.say("warning", f"No seed has finished in both {arm} and {beside}.")
        st.stop()
    seed = right.selectbox("Seed", seeds, key="seed", bind=choices.BIND)
    return {one: rows[seed] for one, rows in runs.items()}


def _maps(results: AblationResults, runs: dict[str, str]) -> dict[str, Attention]:
    """The runs' maps; where there are none the page says so."""
    found, missing = {}, []
    for arm, run_id in runs.items():
        try:
            maps = data.attention(run_id)
        except AttentionError as error:
            states.say("error", str(error))
            continue
        if maps is None:
            missing.append(arm)
        else:
            found[arm] = maps
    if missing:
        reason = "trained without diagnostics, or before maps were kept, or with an attention that has none"
        _lacking(results, f"{' and '.join(missing)} stored no attention maps: {reason}.")
    return found


def _lacking(results: AblationResults, reason: str) -> None:
    states.say(
        "warning",
        f"{reason} A new training stores them:",
        f"python experiments/run.py ablation={results.design.name} fresh=true",
    )


def _boxes(results: AblationResults, arm: str, run_id: str) -> pd.DataFrame | None:
    """The run's boxes by query; where there are none the page says so."""
    frame = data.query_boxes(results, run_id)
    if frame is None:
        states.no_predictions(arm)
    elif frame.empty:
        _lacking(results, f"{arm} stored no detections that name their query.")
    return None if frame is None or frame.empty else frame


def _image(truth: GroundTruth, maps: list[Attention]) -> int | None:
    """Index of the chosen image, of those that all the arms have maps of."""
    numbers = {image_id: n for n, image_id in enumerate(truth.image_ids.tolist())}
    shown = [numbers[i] for i in maps[0].images if i in numbers and all(i in other.images for other in maps)]
    if not shown:
        states.say("warning", "No image has attention maps in both arms: they were evaluated on other images.")
        return None
    text = "The images on which diagnostics look at the attention (train.probe_images), the same in all runs."
    files = dict(zip(shown, (truth.files[n] for n in shown), strict=True))
    return st.selectbox("Image", shown, key="picture", bind=choices.BIND, help=text, format_func=lambda n: files[n])


def _mapped(boxes: pd.DataFrame, attention: Attention, image_id: int) -> pd.DataFrame:
    """The image's detections that have a map, best first."""
    found = boxes[(boxes["image_id"] == image_id) & boxes["query"].isin(attention.images[image_id].queries)]
    return found.sort_values("score", ascending=False, kind="stable")


def _detection(truth: GroundTruth, boxes: pd.DataFrame) -> pd.DataFrame:
    """The chosen one of the first arm's detections, as one row."""
    labels = dict(zip(boxes["query"].tolist(), _labels(truth, boxes), strict=True))
    query = st.selectbox("Detection", list(labels), key="query", bind=choices.BIND,
                         format_func=lambda query: f"{labels[query]}, query {query}")  # fmt: skip
    return boxes[boxes["query"] == query]


def _labels(truth: GroundTruth, boxes: pd.DataFrame) -> list[str]:
    """Class and score of each row."""
    known = np.searchsorted(truth.category_ids, boxes["category_id"])
    return [f"{truth.classes[k]} {score:.2f}" for k, score in zip(known, boxes["score"], strict=True)]
