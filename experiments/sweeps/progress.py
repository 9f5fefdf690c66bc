"""What a person sees of a sweep: its plan, and while it runs a bar on a terminal and a line a trial elsewhere."""

import time

import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from detr.config import RunConfig
from experiments.results.reading.sweep_trials import STATES, attributes_of, holders
from experiments.results.trust import MAXIMIZE
from experiments.runs.display import COLOURS, print_table
from experiments.schema.metrics import in_points
from experiments.sweeps.sweep_file import Sweep
from experiments.sweeps.trial import SEARCH, Phase

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class SweepDisplay:
    """A bar over all places with the trials under way, the best so far and the time left; a line a trial that ends."""

    def __init__(self, console: Console, phase: Phase, until: float) -> None:
        self.console, self.phase, self.until = console, phase, until
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        status = TextColumn("{task.fields[status]}")
        self.progress = Progress(*columns, status, console=console, disable=not console.is_terminal, transient=True)
        words = "trials" if phase.name == SEARCH else "re-runs"
        self.task = self.progress.add_task(words, total=len(phase.places), status="")
        self.started = time.monotonic()
        self.shown = {place for place, trial in holders(phase.study).items() if trial.state in ENDED}
        self.earlier = len(self.shown)
        if self.earlier:
            console.print(f"{self.earlier} of {len(phase.places)} {words} are done")

    def __enter__(self) -> "SweepDisplay":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def update(self) -> None:
        """Show what has come to the study."""
        held = {place: trial for place, trial in holders(self.phase.study).items() if place in self.phase.places}
        best = self._best(list(held.values())) if self.phase.name == SEARCH else None
        for place, trial in held.items():
            if trial.state in ENDED and place not in self.shown and not self._goes_on(trial):
                self.shown.add(place)
                self.console.print(self._line(trial, best))
        under_way = [self._running(trial) for trial in held.values() if trial.state == TrialState.RUNNING]
        best_text = f"best {self._value(best)} (trial {best.number})" if best else ""
        status = "  ".join([*under_way, best_text, self._left()])
        self.progress.update(self.task, completed=len(self.shown), status=status)

    def _goes_on(self, trial: FrozenTrial) -> bool:
        """An interrupted trial, whose place will be taken again."""
        return trial.state == TrialState.FAIL and attributes_of(trial).reason is None

    def _best(self, trials: list[FrozenTrial]) -> FrozenTrial | None:
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        sign = -1 if self.phase.sweep.objectives[self.phase.sweep.metric] == MAXIMIZE else 1
        return min(finished, key=lambda trial: sign * trial.values[0], default=None)

    def _value(self, trial: FrozenTrial) -> str:
        values = zip(self.phase.sweep.objectives, trial.values or [], strict=False)
        texts = [f"{m.removeprefix('val/')} {100 * v:.1f}" if in_points(m) else f"{m} {v:.4g}" for m, v in values]
        AP = attributes_of(trial).metrics.get("val/AP")
        if AP is not None and not any(in_points(metric) for metric in self.phase.sweep.objectives):
            texts.append(f"AP {100 * AP:.1f}")
        return ", ".join(texts)

    def _name(self, trial: FrozenTrial) -> str:
        attributes = attributes_of(trial)
        if self.phase.name != SEARCH:
            return f"trial {attributes.trial} at {attributes.rung}"
        return f"trial {trial.number}" + (f" ({attributes.known})" if attributes.known else "")

    def _line(self, trial: FrozenTrial, best: FrozenTrial | None) -> str:
        state, attributes = STATES[trial.state], attributes_of(trial)
        colour = COLOURS.get(state, "yellow")
        parts = [f"{self._name(trial)}  [{colour}]{state}[/]", self._value(trial)]
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            parts.append(f"at evaluation {len(trial.intermediate_values)}")
        parts.append((attributes.reason or "").replace("[", "\\["))
        parts.append(f"{attributes.seconds or 0:.0f} s")
        parts.append(f"best so far trial {best.number}" if best else "")
        parts.append(f"{len(self.shown)}/{len(self.phase.places)}{self._left()}")
        return "  ".join(part for part in parts if part)

    def _running(self, trial: FrozenTrial) -> str:
        values = trial.intermediate_values
        metric = self.phase.sweep.metric
        scale, name = (100, "AP") if in_points(metric) else (1, metric)
        last = f", {name} {scale * values[max(values)]:.3g}" if values else ""
        return f"{self._name(trial)}: {len(values)} evaluations{last}"

    def _left(self) -> str:
        done, total = len(self.shown), len(self.phase.places)
        if done == self.earlier or done == total:
            return ""
        seconds = (time.monotonic() - self.started) / (done - self.earlier) * (total - done)
        return f", about {min(seconds, max(0.0, self.until - time.time())) / 60:.1f} min left"


def show_plan(sweep: Sweep, num_trials: int, base: RunConfig, console: Console) -> None:
    """Print what would be searched and run; nothing is stored."""
    space = pd.DataFrame({"setting": [s.name for s in sweep.settings], "searched": [s.words for s in sweep.settings]})
    print_table(console, space, "space")
    for name, values in sweep.known.items():
        console.print(f"known: {name}: {', '.join(f'{key} {value}' for key, value in values.items())}", markup=False)
    console.print(
        f"{num_trials} trials of {sweep.rungs[0]} with {len(sweep.seeds)} seed(s) and {base.train.evaluations} "
        f"evaluations, by {', '.join(sweep.objectives)}; sampler {sweep.sampler['name']}, pruner {sweep.pruner['name']}"
    )
    if len(sweep.rungs) > 1:
        console.print(
            f"then {sweep.trust_configurations} of them again at {', '.join(sweep.rungs[1:])} with seeds "
            f"{', '.join(map(str, sweep.trust_seeds))}"
        )
    else:
        console.print("no longer rung: the ranking will be for screening only")
