"""Thresholds and errors: curves over the threshold, error types and their cost, classes, sizes, calibration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import choices, data, detected, export, states
from dashboard.choices import BIND
from experiments.results.detections.confusion import confusion
from experiments.results.detections.matching import GroundTruth
from experiments.results.detections.run_summary import (
    RunSummary,
    Summaries,
    at_threshold,
    error_table,
    pooled_reliability,
)
from experiments.results.figures import error_figures, outcomes
from experiments.results.reading.ablations import AblationResults
from experiments.schema.contrasts import contrasts

FEW_ARMS = 8  # that are all shown at first
FEW_IMAGES = 1000  # up to here the bootstrap of classes takes a moment
REPLICATES = 300


@dataclass(frozen=True)
class Shown:
    """What the page has chosen and read."""

    results: AblationResults
    truth: GroundTruth
    arms: list[str]  # of which detections were found
    seeds: list[int]
    labels: tuple[int, ...]  # of the chosen class; empty for all
    threshold: float
    summaries: Mapping[str, Mapping[int, RunSummary]]  # arm -> seed -> run

    @property
    def design(self) -> list[str]:
        """All arms, which fix the colours."""
        return list(self.results.design.arms)

    @property
    def runs(self) -> Summaries:
        """arm -> its runs."""
        return {arm: list(by_seed.values()) for arm, by_seed in self.summaries.items()}


def render() -> None:
    """The page."""
    st.title("Thresholds and errors")
    results = choices.ablation()
    page(results, detected.truth(results))


@st.fragment  # a choice draws this again, and not the rest of the app
def page(results: AblationResults, truth: GroundTruth) -> None:
    """All below the title."""
    parts = st.pills("Figures", list(PARTS), selection_mode="multi", default=list(PARTS)[:2], key="figures", bind=BIND)
    columns = st.columns([3, 1])
    with columns[0]:
        arms = choices.arms(results, default_arms(results))
    with columns[1]:
        seeds = choices.seeds(results)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        help_text = "Detections with a lower score are left out of the tables, of confusion and of calibration."
        threshold = st.slider("Score threshold", 0.0, 1.0, 0.5, 0.01, key="threshold", bind=BIND, help=help_text)
        name = st.selectbox(
            "Class", truth.classes, index=None, key="class", bind=BIND, placeholder="All classes", width=220
        )
    labels = () if name is None else (truth.classes.index(name),)
    summaries = {arm: found for arm in arms if (found := detected.summaries(results, arm, seeds, labels))}
    if not summaries:
        states.say("info", "Choose at least one arm and one seed that have detections.")
        return
    shown = Shown(results, truth, list(summaries), seeds, labels, threshold, summaries)
    for part in parts:
        st.subheader(part, anchor=part.lower().replace(" ", "-"))
        PARTS[part](shown)


def default_arms(results: AblationResults) -> list[str]:
    """All where they are few, else the first pair of the primary contrast."""
    arms = list(results.design.arms)
    found = contrasts(results.design)
    return arms if len(arms) <= FEW_ARMS or not found else list(found[0].pairs[0])


def curves(shown: Shown) -> None:
    """Precision, recall and F1."""
    raw = at_threshold(shown.runs, shown.threshold)
    columns = ["AP50", "precision", "recall", "F1", "best F1", "best threshold", "D-ECE"]
    table = raw[["arm"]].assign(seeds=[f"{n}/{len(shown.results.design.seeds)}" for n in raw["N"]])
    for column in columns:
        scale, digits = (100, 1) if column == "AP50" else (1, 2 if column == "best threshold" else 3)
        pairs = zip(raw[column], raw[f"{column}_sd"], strict=True)
        table[column] = [mean_sd(scale * mean, scale * sd, digits) for mean, sd in pairs]
    export.table(table, "operating-points", f"At a threshold of {shown.threshold:.2f}: means ± SD over seeds.", raw)
    drawn = error_figures.precision_recall(shown.runs, shown.design, shown.threshold)
    frames = [
        run.curve.assign(arm=arm, seed=seed)
        for arm, by_seed in shown.summaries.items()
        for seed, run in by_seed.items()
    ]
    caption = (
        "Precision over recall is the mean over classes at IoU 0.5, and the area below it AP50. Over the threshold, "
        "all classes are counted together. Lines are means over seeds, bands reach from the lowest to the highest seed."
    )
    export.figure(drawn, "thresholds", caption, lambda: pd.concat(frames))


def errors(shown: Shown) -> None:
    """Error types and their cost."""
    raw = error_table(shown.runs, shown.threshold)
    drawn = error_figures.error_costs(shown.runs, shown.design)
    caption = (
        "What AP50 would gain if all errors of one type were mended (TIDE: Bolya et al. 2020), over all detections "
        "whatever the threshold. The gains do not add up. Means over seeds, whiskers from the lowest to the highest."
    )
    export.figure(drawn, "errors", caption, raw, {name: name for name in raw["type"].unique()})
    number = raw.dropna(subset=["number"]).pivot(index="arm", columns="type", values="number").loc[shown.arms]
    number = number[[name for name in raw["type"].unique() if name in number]]
    table = number.map(lambda value: f"{value:.1f}").reset_index()
    export.table(
        table, "error-counts", f"Errors per run at a threshold of {shown.threshold:.2f}.", number.reset_index()
    )


def classes(shown: Shown) -> None:
    """AP of every class in two arms."""
    if len(shown.arms) < 2:
        states.say("info", "Choose two arms to compare their classes.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        arm = st.selectbox("Arm", shown.arms, index=1, key="arm", bind=BIND)
        against = st.selectbox("minus", shown.arms, index=0, key="against", bind=BIND)
        few = len(shown.truth.image_ids) <= FEW_IMAGES
        help_text = f"95 % intervals over images, by {REPLICATES} bootstrap replicates: minutes on a large set."
        wanted = st.toggle("Intervals", few, key="intervals", bind=BIND, help=help_text)
    if arm == against:
        states.say("info", "These are one and the same arm; choose two.")
        return
    one, other = (
        [detected.run_ids(shown.results, name)[seed] for seed in shown.summaries[name]] for name in (arm, against)
    )
    table = data.class_differences(shown.results, one, other, REPLICATES if wanted else 0)
    if shown.labels:
        table = table[table["class"] == shown.truth.classes[shown.labels[0]]]
    caption = f"AP x 100 of {arm} minus that of {against}, means over seeds; intervals are over images."
    export.figure(outcomes.class_differences(table), "classes", states.plain(caption), table)


def sizes(shown: Shown) -> None:
    """AP by the size of objects."""
    done = shown.results.finished
    done = done[done["arm"].isin(shown.arms) & done["seed"].isin(shown.seeds)]
    drawn = error_figures.sizes(done, shown.arms, shown.design)
    if drawn is None:
        states.say("info", "These runs have stored no AP by size.")
        return
    small, medium = detected.area(shown.results, detected.MEDIUM)
    caption = (
        f"Of all classes. Small: below {small:g} square pixels; large: from {medium:g} on. Means over seeds, whiskers "
        "from the lowest to the highest."
    )
    known = [key for key in error_figures.SIZES if key in done]
    export.figure(drawn, "sizes", caption, done[["arm", "seed", *known]])


def confusions(shown: Shown) -> None:
    """Which class is taken for which."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        arm = st.selectbox("Arm", shown.arms, key="confusion-arm", bind=BIND)
        is_share = st.toggle("Shares of each row", key="shares", bind=BIND)
    table = np.sum([confusion(run.matched, shown.threshold) for run in shown.runs[arm]], axis=0)
    names, number = shown.truth.classes, len(shown.runs[arm])
    runs = "one run" if number == 1 else f"{number} runs together"
    caption = (
        f"Detections of {arm} from {shown.threshold:.2f} on, {runs}. Hits stand on the diagonal. A false alarm that "
        "overlaps an unfound object of another class by at least half counts as that object, any other as background."
    )
    frame = pd.DataFrame(table, columns=[*names, "not found"]).assign(object=[*names, "background"]).set_index("object")
    drawn = error_figures.confusion_matrix(table, names, is_share)
    export.figure(drawn, "confusion", states.plain(caption), frame.reset_index())


def calibrations(shown: Shown) -> None:
    """Do scores say how often a detection is right?"""
    drawn = error_figures.calibration(shown.runs, shown.design, shown.threshold)
    frames = [pooled_reliability(runs, shown.threshold).assign(arm=arm) for arm, runs in shown.runs.items()]
    caption = (
        "Below the diagonal scores promise too much. The detections of all seeds together, from the threshold on, in "
        "25 bins of equal width. D-ECE, in the table of precision and recall, is the mean distance to the diagonal."
    )
    export.figure(drawn, "calibration", caption, pd.concat(frames))


def mean_sd(mean: float, sd: float, digits: int) -> str:
    """A mean with its standard deviation where there is one."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if pd.isna(sd) else f" ± {sd:.{digits}f}")


PARTS: dict[str, Callable[[Shown], None]] = {
    "Precision and recall": curves,
    "Error types": errors,
    "Classes": classes,
    "Sizes": sizes,
    "Confusion": confusions,
    "Calibration": calibrations,
}
