"""Detections of the arms that a page shows, with a word for what is missing."""

from collections.abc import Callable, Collection, Sequence

import streamlit as st

from dashboard import data, states
from experiments.results.detections.matching import GroundTruth, Matched
from experiments.results.detections.run_summary import RunSummary
from experiments.results.evidence import area_limits
from experiments.results.reading.ablations import AblationResults

ANY, SMALL, MEDIUM, LARGE = SIZES = ("all", "small", "medium", "large")


def truth(results: AblationResults) -> GroundTruth:
    """The validation set; where there is none the page says so and ends."""
    try:
        found = data.truth(results)
    except ValueError as error:
        states.say("error", f"The validation annotations of this ablation cannot be used: {error}.")
        st.stop()
    if found is None or not len(found.image_ids):
        states.say("warning", "The validation annotations of this ablation were not stored, or hold no image.")
        st.stop()
    return found


def run_ids(results: AblationResults, arm: str) -> dict[int, str]:
    """seed -> run id of the arm's finished runs."""
    done = results.finished[results.finished["arm"] == arm]
    return dict(zip(done["seed"].tolist(), done["run_id"].tolist(), strict=True))


def load(results: AblationResults, arm: str, seeds: Collection[int], size: str = ANY) -> dict[int, Matched]:
    """seed -> matched detections of the arm's finished runs; says which are missing, and why."""
    limits = area(results, size)
    return _each(results, arm, seeds, lambda run_id: data.matched(results, run_id, limits))


def summaries(
    results: AblationResults, arm: str, seeds: Collection[int], labels: tuple[int, ...]
) -> dict[int, RunSummary]:
    """seed -> curves and errors of the arm's finished runs, of the classes with these indices or of all; likewise."""
    found = _each(results, arm, seeds, lambda run_id: data.matched(results, run_id))
    finished = run_ids(results, arm)
    known = {seed: data.summary(results, finished[seed], labels) for seed in found}
    return {seed: summary for seed, summary in known.items() if summary is not None}


def _each(
    results: AblationResults, arm: str, seeds: Collection[int], read: Callable[[str], Matched | None]
) -> dict[int, Matched]:
    finished, found = run_ids(results, arm), {}
    for seed in seeds:
        if seed not in finished:
            _missing(results, arm, seed)
            continue
        try:
            matched = read(finished[seed])
        except ValueError as error:
            states.say("error", f"{arm}, seed {seed}: {error}. It is left out here.")
            continue
        if matched is None:
            states.say("warning", f"{arm}, seed {seed}: no detections were stored. It is left out here.")
            continue
        for reason, number in matched.detections.left_out.items():
            text = f"{number} stored detections {reason} are left out, so the figures here are not those of its AP."
            states.say("warning", f"{arm}, seed {seed}: {text}")
        found[seed] = matched
    return found


def area(results: AblationResults, size: str) -> tuple[float, float]:
    """Least and most square pixels of the objects of a size, as the runs' settings part them."""
    small, medium = area_limits(results)
    return {SMALL: (0.0, small), MEDIUM: (small, medium), LARGE: (medium, 1e10)}.get(size, (0.0, 1e10))


def short_names(results: AblationResults, arms: Sequence[str]) -> dict[str, str]:
    """arm -> the levels in which the arms differ; the full name where that does not tell them apart."""
    levels = [results.design.arms[arm] for arm in arms]
    differing = [factor for factor in results.design.factors if len({str(one.get(factor)) for one in levels}) > 1]
    names = {arm: ",".join(f"{f}={one.get(f)}" for f in differing) for arm, one in zip(arms, levels, strict=True)}
    return names if len(set(names.values())) == len(arms) > 1 else {arm: arm for arm in arms}


def _missing(results: AblationResults, arm: str, seed: int) -> None:
    runs = results.runs
    state = runs[(runs["arm"] == arm) & (runs["seed"] == seed)]["state"].tolist() if len(runs) else []
    states.say("info", f"{arm}, seed {seed} is {state[0] if state else 'not started'}: it has no detections yet.")
