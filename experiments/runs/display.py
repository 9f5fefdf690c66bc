"""Progress of runs for a person: bars on a terminal, elsewhere a line an evaluation."""

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Table

from experiments.runs.run_directory import RunDirectory

COLOURS = {"finished": "green", "failed": "red", "stopped": "yellow"}


class Display:
    """Bars over all runs and over the steps of each active run, with loss, AP and the time left."""

    def __init__(self, console: Console, num_runs: int) -> None:
        self.console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeLeftColumn(), TextColumn("{task.fields[status]}"))
        self.progress = Progress(*columns, *left, console=console, disable=not console.is_terminal, transient=True)
        self.all = self.progress.add_task("runs", total=num_runs, status="")
        self.tasks: dict[str, TaskID] = {}
        self.offsets: dict[str, int] = {}  # bytes of each run's records that were shown
        self.status: dict[str, dict[str, str]] = {}

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, name: str, directory: RunDirectory) -> None:
        """Add the bar of a run that begins, here or elsewhere."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=None, status="")
            self.offsets[name], self.status[name] = directory.records.end, {}

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def update(self, name: str, directory: RunDirectory) -> None:
        """Show the records that the run has added since the last call."""
        status, record = self.status[name], None
        for record, offset in directory.records.lines(self.offsets[name]):
            self.offsets[name] = offset
            metrics = record.metrics
            if "train/loss" in metrics:
                status["loss"] = f"loss {metrics['train/loss']:.2f}"
            if "val/AP" in metrics:
                status["AP"] = f"AP {100 * metrics['val/AP']:.1f}"
                assert record.seconds is not None and record.num_steps is not None  # every line of a run
                left = record.seconds / record.step * (record.num_steps - record.step)
                self.console.print(
                    f"{name}  step {record.step}/{record.num_steps}  epoch {record.epoch:.1f}  "
                    f"{status.get('loss', '')}  val loss {metrics['val/loss']:.2f}  {status['AP']}  "
                    f"{record.seconds:.0f} s, {left:.0f} s left"
                )
        if record:
            text = " ".join(status.values())
            self.progress.update(self.tasks[name], completed=record.step, total=record.num_steps, status=text)

    def finish(self, name: str, state: str, error: str) -> None:
        """Print the state in which a run ended, and remove its bar."""
        self.console.print(f"{name}  [{COLOURS.get(state, 'yellow')}]{state}[/] {escape(error)}")
        self.progress.remove_task(self.tasks[name])
        self.progress.advance(self.all)


def print_table(console: Console, frame: pd.DataFrame, title: str) -> None:
    """Print a frame of texts as a table."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(frame.columns):
        text = i == 0 or column == "note"
        table.add_column(column, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print(table)
