"""The report of a sweep, from what is stored: Markdown, CSV and one self-contained HTML page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.results.figures.sweep_figures import CAPTIONS, figures
from experiments.results.reading.ablations import report_folder
from experiments.results.reading.sweep_trials import (
    SweepResults,
    intermediate_frame,
    load_sweep,
    steps_saved,
    sweeps,
    trial_frame,
)
from experiments.results.report.html import page
from experiments.results.report.markdown import text
from experiments.results.report.sections import Plot, Section
from experiments.results.trust import (
    MIN_CONFIGURATIONS,
    SCREENING,
    label,
    ranking,
    trust_figure,
    trust_frame,
    trust_summary,
)
from experiments.schema.metrics import in_points
from experiments.schema.store import Store, StoreError

SHOWN = 10  # trials of the table of the best


def title(results: SweepResults) -> str:
    """Name, length of the trials and what the ranks are good for."""
    return f"{results.spec['name']} at {results.spec['rungs'][0]} ({label(results)})"


def best_table(results: SweepResults) -> pd.DataFrame:
    """The best trials and the known recipes as people read them, best first; with several objectives the Pareto front
    and the known recipes.
    """
    table = trial_frame(results.study, results.objectives)
    metric, direction = next(iter(results.objectives.items()))
    ranked = ranking(table, metric, direction)
    if len(results.objectives) > 1:
        front = [trial.number for trial in results.study.best_trials]
        chosen = ranked[ranked["number"].isin(front) | (ranked["known"] != "")]
    else:
        chosen = ranked[(ranked["rank"] <= SHOWN) | (ranked["known"] != "")]
    return _display(chosen, results)


def _display(table: pd.DataFrame, results: SweepResults) -> pd.DataFrame:
    shown = pd.DataFrame({"rank": table["rank"], "trial": table["number"], "state": table["state"]}).astype(str)
    shown["known as"] = table["known"]
    for metric in dict.fromkeys([*results.objectives, "val/AP"]):
        column = metric if metric in results.objectives else f"metrics.{metric}"
        if column in table:
            name = f"{metric.removeprefix('val/')} x 100" if in_points(metric) else metric
            shown[name] = [_number(100 * v if in_points(metric) else v) for v in table[column]]
    for setting in results.spec["space"]:
        if setting in table:
            shown[setting] = [_number(value) for value in table[setting]]
    shown["steps"] = [_number(value) for value in table["steps"]]
    return shown


def _number(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and value != int(value) else str(value).removesuffix(".0")


def counts(results: SweepResults) -> str:
    """How many trials ended how, and what pruning saved."""
    table = trial_frame(results.study, results.objectives)
    held = table[table["state"] != "retried"]
    parts = [f"{n} {state}" for state, n in held["state"].value_counts().items()]
    diverged = int(((held["state"] == "pruned") & (held["reason"] != "")).sum())
    words = f"{len(held)} trials: {', '.join(parts)}" + (
        f" ({diverged} of them diverged or refused)" if diverged else ""
    )
    again = int((table["state"] == "retried").sum())
    words += f"; {again} interrupted and taken up again" if again else ""
    saved = steps_saved(table)
    return words + (f"; pruning saved {100 * saved:.0f} % of their steps" if saved == saved else "")


def trust_words(results: SweepResults) -> list[str]:
    """One sentence a longer rung and objective, or why the ranking is for screening only."""
    found = [trust.sentence for trust in trust_summary(results)]
    if found:
        return found
    rungs = results.spec["rungs"][1:]
    if not rungs:
        return [f"{SCREENING}: this sweep has no longer rung, so nobody knows whether its ranks carry."]
    return [
        f"{SCREENING}: fewer than {MIN_CONFIGURATIONS} configurations have been run again at {', '.join(rungs)}, so "
        "nobody knows whether the ranks carry."
    ]


def spoken(results: SweepResults) -> list[str]:
    """The outcome for a terminal."""
    return [counts(results), *trust_words(results)]


def sections(results: SweepResults) -> Iterator[Section]:
    """Everything that the report says."""
    spec = results.spec
    goals = ", ".join(f"{metric} ({direction}d)" for metric, direction in results.objectives.items())
    yield Section(
        "Question",
        [
            spec["question"],
            f"Objective: {goals}, of runs of {spec['rungs'][0]} with {_seeds(spec['seeds'])}. {counts(results)}.",
            f"What the ranks are good for: {label(results)}.",
        ],
    )
    best = best_table(results)
    if len(best):
        what = "The Pareto front and the known recipes" if len(results.objectives) > 1 else "The best trials"
        note = (
            f"{what}. Each value is the mean over {_seeds(spec['seeds'])}, and the best of many trials looks better "
            "than it is: the ablation file beside this report compares it with the known recipe on seeds of its own."
        )
        yield Section("Best settings", [note], tables=[best])
    yield from _trust(results)
    for name, figure in figures(results).items():
        caption = CAPTIONS[name.partition(":")[0]]
        yield Section(name.replace("_", " "), plots=[Plot(f"sweep-{name.replace('/', '-')}", figure, caption)])
    yield _method(results)


def _trust(results: SweepResults) -> Iterator[Section]:
    frame = trust_frame(results)
    words = [
        *trust_words(results),
        "Tau is 1 where the short runs put the configurations in the order of the long ones, and 0 where they tell "
        "nothing; the regret is what choosing by the short runs costs. Configurations that the pruner gave up count "
        "with their last value, below those that finished. The interval is exact under Mallows' model of noisy "
        "rankings, and is about configurations like those that were run again; the regression is about all trials that "
        "finished, if their values are nearly normal.",
    ]
    if frame.empty:
        yield Section("How far the ranks carry", words[:1])
        return
    metric = next(iter(results.objectives))
    scale = 100 if in_points(metric) else 1
    shown = frame[["rung", "number", "known", "state"]].astype(str)
    for column in ("short", "short_rank", "long", "long_rank"):
        factor = scale if column in ("short", "long") else 1
        shown[column.replace("_", " ")] = [_number(factor * value) for value in frame[column]]
    caption = f"Re-runs with {_seeds(results.spec['trust_seeds'])}; the schedule is compressed to each length."
    yield Section("How far the ranks carry", words, tables=[shown],
                  plots=[Plot("sweep-trust", trust_figure(results), caption)])  # fmt: skip


def _method(results: SweepResults) -> Section:
    spec = results.spec
    space = pd.DataFrame({"setting": list(spec["space"]), "searched": list(spec["space"].values())})
    known = pd.DataFrame([{"known as": name} | values for name, values in spec["known"].items()])
    shared = ", ".join(spec["overrides"])
    return Section(
        "Method",
        [
            f"Sampler: {_options(spec['sampler'])}. Pruner: {_options(spec['pruner'])}; its steps are evaluations. "
            "Known recipes are tried first. A trial that diverges counts as pruned. Shared by all trials: the sweep "
            f"file and {shared}. The length is fixed and the schedule compressed to it, so no schedule is favoured by "
            "where a run is cut.",
        ],
        tables=[space] + ([known.map(_number)] if len(known) else []),
    )


def _options(given: dict[str, Any]) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in given.items() if key != "name")
    return f"{given['name']}{f' ({rest})' if rest else ''}"


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def write(results: SweepResults, folder: Path) -> list[Path]:
    """Write all files of the report into the folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    parts, head = list(sections(results)), title(results)
    contents = {
        "report.html": page(head, parts),
        "report.md": text(head, parts),
        "trials.csv": trial_frame(results.study, results.objectives).to_csv(index=False),
        "evaluations.csv": intermediate_frame(results.study).to_csv(index=False),
        "trust.csv": trust_frame(results).to_csv(index=False),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def report(store: Store, name: str | None, output: Path | None) -> tuple[SweepResults, Path]:
    """Write the report of the newest sweep, of any name or of this one; StoreError where there is none."""
    found = sweeps(store)
    found = found[found["name"] == name] if name else found
    if found.empty:
        named = f"sweep named {name!r}" if name else "sweep"
        raise StoreError(f"{store.address} has no {named}; python experiments/sweep.py sweep=lr_clip makes one")
    newest = found.iloc[0]
    results = load_sweep(store, newest["run_id"])
    folder = output or report_folder(store, newest["run_id"])
    write(results, folder)
    return results, folder
