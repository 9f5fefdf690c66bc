"""What a person sees while runs are trained: two bars on a terminal, a line an evaluation elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from detr.train import Record


class Display:
    """Bars over all runs and over the steps of the present one, with loss, AP and the time left."""

    def __init__(self, console: Console, num_runs: int) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.runs = self.progress.add_task("runs", total=num_runs, status="")
        self.steps = self.progress.add_task("steps", total=None, status="")
        self.name, self.loss, self.ap = "", "", ""

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, name: str) -> None:
        """A run begins."""
        self.name, self.loss, self.ap, self.began = name, "", "", time.monotonic()
        self.progress.reset(self.steps, description=name, total=None, status="")
        self.console.print(f"[bold]{name}[/bold]", highlight=False)

    def update(self, record: Record) -> None:
        """A record of the present run."""
        metrics = record.metrics
        if "train/loss" in metrics:
            self.loss = f"loss {metrics['train/loss']:.3f}"
        if "val/AP" in metrics:
            self.ap = f"AP {100 * metrics['val/AP']:.1f}"
            left = record.seconds / record.step * (record.num_steps - record.step)
            self.console.print(
                f"  step {record.step}/{record.num_steps}  epoch {record.epoch:.1f}  {self.loss}  "
                f"val loss {metrics['val/loss']:.3f}  {self.ap}  {record.seconds:.0f} s, {left:.0f} s left",
                highlight=False,
            )
        self.progress.update(self.steps, completed=record.step, total=record.num_steps, status=f"{self.loss} {self.ap}")

    def finish(self, state: str, note: str = "") -> None:
        """The present run ended in this state."""
        colour = {"finished": "green", "failed": "red"}.get(state, "yellow")
        self.console.print(f"  [{colour}]{state}[/{colour}] {note}", highlight=False)
        self.progress.advance(self.runs)
