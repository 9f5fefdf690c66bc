"""Detections: the same images in one, two or more arms under one threshold, with hits, false alarms and misses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import choices, detected, export, gallery, states
from dashboard.choices import BIND
from experiments.results.detections import image_order
from experiments.results.detections.matching import GroundTruth, Matched
from experiments.results.detections.operating_points import counts, counts_by_image
from experiments.results.detections.scenes import FALSE_ALARM, HIT, MISS, OUTCOMES
from experiments.results.evidence import image_folder
from experiments.results.figures.curves import colour
from experiments.results.reading.ablations import AblationResults
from experiments.schema.contrasts import contrasts

PAGE = 12  # images
MOST_ARMS = 4
MARKS = {"none": 0.0, "0.50": 0.5, "0.75": 0.75}
BY_ID, BY_DISAGREEMENT, BY_MISSES, BY_ALARMS, BY_WEIGHT = ORDERS = (
    "image id",
    "disagreement",
    "misses",
    "false alarms",
    "weighted errors",
)
ORDER_HELP = (
    "disagreement: objects that some of the arms find and others miss, plus the most minus the fewest false alarms of "
    "an arm, at this threshold. misses and false alarms: summed over the arms. weighted errors: false alarms by their "
    "score plus objects by 1 minus the score that finds them; needs no threshold."
)
COLUMNS = {HIT: "hits", FALSE_ALARM: "false_alarms", MISS: "misses"}


def render() -> None:
    """The page."""
    st.title("Detections")
    results = choices.ablation()
    page(results, detected.truth(results))


@st.fragment  # a choice draws this again, and not the rest of the app
def page(results: AblationResults, truth: GroundTruth) -> None:
    """All below the title."""
    arms = choices.arms(results, default_arms(results), MOST_ARMS)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = sorted(results.design.seeds)
        seed = st.selectbox("Seed", known, key="seed", bind=BIND, help="Which training of each arm is shown.", width=90)
        order = st.selectbox("Order of images", ORDERS, key="order", bind=BIND, help=ORDER_HELP, width=190)
        labels, size, outcomes, truth_apart = pick_boxes(truth)
    threshold = pick_threshold()
    matched = {arm: found[seed] for arm in arms if (found := detected.load(results, arm, [seed], size))}
    if labels:
        matched = {arm: one.restricted(labels) for arm, one in matched.items()}
    if not matched:
        states.say("info", "Choose at least one arm that has detections.")
        return
    shown, raw = metrics(matched, threshold)
    export.table(shown, "detections", raw=raw)
    filtered = bool(labels) or size != detected.ANY or len(outcomes) < len(OUTCOMES)
    images = in_order(list(matched.values()), order, threshold, outcomes if filtered else ())
    chosen, is_large = navigate(truth, images)
    names = detected.short_names(results, list(matched))
    design = list(results.design.arms)
    drawn = [gallery.Arm(names[arm], colour(arm, design), one) for arm, one in matched.items()]
    look = gallery.Look(threshold, outcomes, truth_apart, is_large)
    gallery.show(truth, drawn, chosen, image_folder(results), look)


def default_arms(results: AblationResults) -> list[str]:
    """The first pair of the primary contrast."""
    found = contrasts(results.design)
    return list(found[0].pairs[0]) if found else list(results.design.arms)[:2]


def pick_threshold() -> float:
    """The slider, and buttons for its marks."""
    help_text = "Detections with a lower score are left out, everywhere on this page."
    with st.container(horizontal=True, vertical_alignment="bottom"):
        threshold = st.slider("Score threshold", 0.0, 1.0, 0.5, step=0.01, key="threshold", bind=BIND, help=help_text)
        for label, value in MARKS.items():
            st.button(label, on_click=put, args=("threshold", value), key=f"mark-{label}")
    return threshold


def pick_boxes(truth: GroundTruth) -> tuple[list[int], str, list[str], bool]:
    """Which boxes count and are drawn: indices of classes (none for all), size, outcomes, truth as its own picture."""
    classes = st.multiselect("Classes", truth.classes, key="classes", bind=BIND, placeholder="All classes", width=220)
    size = st.segmented_control(
        "Size of objects", detected.SIZES, default=detected.ANY, key="size", bind=BIND, required=True, width="content",
        help="As the runs' settings part them. As in COCO, what finds an object of another size does not count.",
    )  # fmt: skip
    outcomes = st.pills(
        "Show", OUTCOMES, selection_mode="multi", default=OUTCOMES, key="show", bind=BIND, width="content",
        help="Boxes to draw, and images that have at least one of them. The figures stay those of all boxes.",
    )  # fmt: skip
    help_text = "A picture of the objects alone beside the arms'."
    apart = st.toggle("Objects apart", key="apart", bind=BIND, help=help_text, width="content")
    return [truth.classes.index(name) for name in classes], size, outcomes or list(OUTCOMES), apart


def metrics(matched: Mapping[str, Matched], threshold: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row an arm: as texts, and as figures."""
    found = {arm: counts(one, threshold) for arm, one in matched.items()}
    raw = pd.DataFrame(
        [(arm, c.precision, c.recall, c.f1, c.hits, c.false_alarms, c.misses) for arm, c in found.items()],
        columns=["arm", "precision", "recall", "F1", "hits", "false alarms", "misses"],
    )
    shown = raw.copy()
    for name in ("precision", "recall", "F1"):
        shown[name] = ["–" if pd.isna(value) else f"{value:.3f}" for value in raw[name]]
    return shown, raw


def in_order(matched: Sequence[Matched], order: str, threshold: float, outcomes: Sequence[str]) -> np.ndarray:
    """Indices of the images, those to look at first in front; with `outcomes`, only images that have one of them."""
    keys = {
        BY_DISAGREEMENT: lambda: image_order.disagreement(matched, threshold),
        BY_MISSES: lambda: image_order.misses(matched, threshold),
        BY_ALARMS: lambda: image_order.false_alarms(matched, threshold),
        BY_WEIGHT: lambda: image_order.weighted_errors(matched),
    }
    number = len(matched[0].detections.truth.image_ids)
    images = np.argsort(-keys[order](), kind="stable") if order in keys else np.arange(number)
    if outcomes:
        columns = [COLUMNS[outcome] for outcome in outcomes]
        found = np.sum([counts_by_image(one, threshold)[columns].to_numpy().sum(axis=1) for one in matched], axis=0)
        images = images[found[images] > 0]
    return images


def navigate(truth: GroundTruth, images: np.ndarray) -> tuple[list[int], bool]:
    """Which images to show, and whether that is a single large one."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        steps = st.container(horizontal=True, vertical_alignment="bottom", width="content")
        wanted = st.text_input("Image id", key="image", bind=BIND, placeholder="click a picture", width=150)
        place = np.flatnonzero(truth.image_ids.astype(str) == wanted.strip())
        if len(place):
            with steps:
                return [one_image(truth, images, int(place[0]))], True
        pages = max(-(-len(images) // PAGE), 1)
        if st.session_state.get("page", 1) > pages:  # a choice above leaves fewer
            st.session_state["page"] = pages
        now = st.number_input(f"Page of {pages}", 1, pages, key="page", bind=BIND, width=130)
        with steps:
            step("page", now - 1 if now > 1 else None, now + 1 if now < pages else None)
        st.markdown(f"{len(images)} of {len(truth.files)} images", width="content")
    if wanted:
        states.say("warning", f"There is no image {wanted!r}.")
    return images[PAGE * (now - 1) : PAGE * now].tolist(), False


def one_image(truth: GroundTruth, images: np.ndarray, n: int) -> int:
    """Ways on from the large image n."""
    place, before, after = np.flatnonzero(images == n), None, None
    if len(place):
        before = images[place[0] - 1] if place[0] > 0 else None
        after = images[place[0] + 1] if place[0] + 1 < len(images) else None
    step("image", *(None if one is None else str(truth.image_ids[one]) for one in (before, after)))
    st.button("All images", icon=":material/grid_view:", shortcut="Esc", on_click=put, args=("image", ""))
    where = f"Number {place[0] + 1} of {len(images)}" if len(place) else "Not among the images that are chosen above"
    st.markdown(where, width="content")
    return n


def step(key: str, before: object, after: object) -> None:
    """Buttons that put the value before or after into the state; None where there is none."""
    for label, shortcut, value in (("Previous", "Left", before), ("Next", "Right", after)):
        st.button(label, shortcut=shortcut, disabled=value is None, on_click=put, args=(key, value))


def put(key: str, value: object) -> None:
    """Make a choice in the reader's stead."""
    st.session_state[key] = value
