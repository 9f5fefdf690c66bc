"""Curves: how losses, learning rates, gradients and AP went, arm by arm."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from dashboard import choices, data, export, states
from experiments.results.figures import curves
from experiments.results.figures.curves import Look
from experiments.results.reading.ablations import AblationResults
from experiments.results.reading.histories import all_points, as_records, not_finite

FIGURES = {  # name in the address -> metrics
    "Losses and AP": curves.LOSSES,
    "Parts of the loss": curves.LOSS_PARTS,
    "Learning rates": curves.RATES,
    "Gradient and clipping": curves.CLIPPING,
    "AP by kind": curves.AP_KINDS,
}
OVER = {"steps": "step", "epochs": "epoch", "samples": "samples", "time": "seconds"}
BAND, LINES = "band", "lines"


def render() -> None:
    """The page."""
    st.title("Curves")
    results = choices.ablation()
    figures = st.pills(
        "Figures", list(FIGURES), selection_mode="multi", default=["Losses and AP"], key="figures", bind=choices.BIND
    )
    arm_column, seed_column = st.columns([3, 1])
    with arm_column:
        arms = choices.arms(results)
    with seed_column:
        seeds = choices.seeds(results)
    look = _look()
    states.live(results, lambda now: _draw(now, figures, arms, seeds, look))


def _look() -> Look:
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        over = st.segmented_control(
            "Over", list(OVER), default="steps", required=True, key="over", bind=choices.BIND,
            help="What the arms are compared at. Arms of unequal length end at different places of one axis and not of "
            "another. A band over time is placed at the mean over its seeds.",
        )  # fmt: skip
        spread = st.segmented_control(
            "Seeds as", [BAND, LINES], default=BAND, required=True, key="seeds-as", bind=choices.BIND,
            help="A band reaches from the lowest to the highest seed around their mean; or a line for every seed.",
        )  # fmt: skip
        log_x = st.toggle("Log x", key="log-x", bind=choices.BIND)
        log_y = st.toggle("Log y", key="log-y", bind=choices.BIND)
        smoothing = st.slider(
            "Smoothing of training curves", 0.0, 0.99, 0.0, 0.01, key="smoothing", bind=choices.BIND, width=220,
            help="Weight of the past in an exponential moving average over logged steps. The raw line stays behind it. "
            "Evaluations are few, and never smoothed.",
        )  # fmt: skip
    return Look(OVER[over], spread == LINES, smoothing, log_x, log_y)


def _draw(
    results: AblationResults, figures: Sequence[str], arms: Sequence[str], seeds: Sequence[int], look: Look
) -> None:
    if not figures or not arms or not seeds:
        states.say("info", "Choose at least one figure, one arm and one seed.")
        return
    runs = results.runs[results.runs["arm"].isin(arms) & results.runs["seed"].isin(seeds)]
    for name in figures:
        metrics = FIGURES[name]
        known = [key for key in metrics if key in results.runs]
        axis = [] if look.over == "step" else [f"progress/{look.over}"]
        histories = data.histories(results, [*known, *axis])
        records = as_records(histories, runs)
        drawn = curves.panels(records, metrics, list(results.design.arms), look)
        st.subheader(name)
        if drawn is None:
            states.say("info", "Nothing of this was logged by these runs yet.")
            continue
        caption = "Lines are means over seeds, bands reach from the lowest to the highest seed." * (not look.each_seed)
        caption = " ".join([caption, curves.averaged(records, metrics)]).strip()
        export.figure(drawn, name.lower().replace(" ", "-"), caption, partial(all_points, histories, runs), metrics)
        for odd in not_finite({key: histories[key] for key in known}, runs).itertuples():
            states.say(
                "warning",
                f"{odd.metric} of {odd.arm}, seed {odd.seed}, is NaN or infinite {odd.values} times, first at step "
                f"{odd.first}; these points are not drawn.",
            )
