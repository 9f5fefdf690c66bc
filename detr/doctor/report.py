"""What the doctor found, as tables for the terminal and as JSON."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detr.config import RunConfig
from detr.doctor.census import stride
from detr.doctor.checks import Advice, Audit
from detr.doctor.records import SEVERITIES, Finding
from detr.doctor.trials import Overfit, Speed

MARKS = {"error": "[bold red]error[/bold red]", "warning": "[yellow]warning[/yellow]", "note": "[dim]note[/dim]"}
SHOWN_IDS, JSON_IDS = 6, 20  # of a finding


@dataclass(frozen=True)
class Visit:
    """All that the doctor found; a trial that could not be run is its reason."""

    config: RunConfig
    audit: Audit
    overfit: Overfit | str | None = None
    speed: Speed | str | None = None

    @property
    def advice(self) -> list[Advice]:
        """Settings to paste."""
        advice = list(self.audit.advice)
        if isinstance(self.speed, Speed) and self.speed.num_workers != self.config.data.num_workers:
            rate = self.speed.together[self.speed.num_workers]
            advice.append(
                Advice(f"data.num_workers={self.speed.num_workers}", f"about {_rate(rate)} images/s of training")
            )
        return advice

    @property
    def exit_code(self) -> int:
        """1 when training would refuse the data, or a model did not learn a few images by heart."""
        failed = isinstance(self.overfit, Overfit) and not self.overfit.passed
        return int(failed or self.audit.num_errors > 0)


def as_json(visit: Visit) -> str:
    """Findings with their first ids, counts, trials and settings; ASCII, since names may hold anything."""
    content: dict[str, Any] = {
        "findings": [asdict(f) | {"count": f.count, "ids": f.ids[:JSON_IDS]} for f in visit.audit.findings],
        "counts": {s: sum(f.severity == s for f in visit.audit.findings) for s in SEVERITIES},
        "census": {split: asdict(census) for split, census in visit.audit.census.items()},
        "settings": [advice._asdict() for advice in visit.advice],
    }
    if visit.overfit is not None:
        content["overfit"] = _trial(visit.overfit, "rule", "passed")
    if visit.speed is not None:
        content["speed"] = _trial(visit.speed, "limit")
    return json.dumps(content, indent=1, allow_nan=False)


def _trial(trial: Overfit | Speed | str, *properties: str) -> dict[str, Any]:
    if isinstance(trial, str):
        return {"not_run": trial}
    values = asdict(trial) | {name: getattr(trial, name) for name in properties}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def print_report(visit: Visit, console: Console) -> None:
    """Tables and sentences, the settings last."""
    console.print(_census(visit))
    if visit.audit.findings:
        console.print(_findings(visit.audit.findings))
    console.print(", ".join(f"{sum(f.severity == s for f in visit.audit.findings)} {s}s" for s in SEVERITIES))
    for line in (*_overfit(visit.overfit), *_speed(visit.speed)):
        console.print(line)
    console.print("[bold]What to change[/bold]" if visit.advice else "No setting to change.")
    for advice in visit.advice:
        console.print(f"  [bold]{escape(advice.setting)}[/bold]  # {escape(advice.reason)}")


def _census(visit: Visit) -> Table:
    """Counts, one column a split."""
    census, config = visit.audit.census, visit.config
    low, high = config.evaluation.area_limits
    table = Table("", *census)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(name: str, values: Iterator[Any]) -> None:
        table.add_row(_plain(name), *(str(value) for value in values))

    row("images", (c.images for c in census.values()))
    row("  without objects", (c.empty_images for c in census.values()))
    row("objects to learn", (c.objects for c in census.values()))
    for name in dict.fromkeys(name for c in census.values() for name in c.classes):
        row(f"  {name}", (c.classes.get(name, "-") for c in census.values()))
    row(f"small | medium | large (px^2: {low:g}, {high:g})", (" | ".join(map(str, c.strata)) for c in census.values()))
    row(f"most in an image (num_queries {config.model.num_queries})", (c.most_objects for c in census.values()))
    row(
        f"sqrt(area) at image_size {config.data.image_size}: 5 %, 50 %, 95 %",
        (", ".join(f"{side:g}" for side in c.sides) + " px" for c in census.values()),
    )
    row(f"  below a feature cell of {stride(config.model)} px", (f"{c.below_cell:.1%}" for c in census.values()))
    return table


def _findings(findings: list[Finding]) -> Table:
    table = Table("", "split", "finding", "count", "first", "remedy")
    table.columns[3].justify = "right"
    for f in findings:
        first = ", ".join(str(id_)[:60] for id_ in f.ids[:SHOWN_IDS]) + (", ..." if f.count > SHOWN_IDS else "")
        cells = (f"{f.of}: {f.what}", str(f.count), first, f.remedy)
        table.add_row(MARKS[f.severity], f.split, *map(_plain, cells))
    return table


def _plain(text: str) -> str:
    """Text of a file as it can be printed anywhere: no markup, no lone surrogates, no control characters."""
    encodable = text.encode("utf-8", "backslashreplace").decode()
    return escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in encodable))


def _overfit(trial: Overfit | str | None) -> Iterator[str]:
    if isinstance(trial, str):
        yield f"[bold]Overfitting[/bold] not run: {_plain(trial)}"
    elif trial is not None:
        verdict = "[green]passed[/green]" if trial.passed else "[bold red]failed[/bold red]"
        yield (
            f"[bold]Overfitting[/bold] {verdict}: {trial.images} images, {trial.steps} steps at lr {trial.lr:g} in "
            f"{trial.seconds:g} s, loss {trial.loss_before:.2f} -> {trial.loss_after:.2f} (rule: {trial.rule})"
        )


def _speed(trial: Speed | str | None) -> Iterator[str]:
    if isinstance(trial, str):
        yield f"[bold]Speed[/bold] not run: {_plain(trial)}"
    elif trial is not None:
        loading = ", ".join(f"{_rate(rate)} with {n} workers" for n, rate in trial.loading.items())
        together = ", ".join(f"{_rate(rate)} with {n}" for n, rate in trial.together.items())
        yield (
            f"[bold]Speed[/bold] in images/s: loading {loading}; computing {_rate(trial.computing)}; "
            f"training about {together}. {trial.limit.capitalize()} sets the pace."
        )


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:.0f}" if images_per_second >= 100 else f"{images_per_second:.3g}"
