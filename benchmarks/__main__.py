"""Run every benchmark that compares us with a peer, print the table and keep it.

    make bench                                   all, in half an hour
    python -m benchmarks losses training_step    some of them
    python -m benchmarks.gpu                     those of a GPU, which `make gpu` runs

Each module of this folder that offers `entries()` is one. The table is kept in benchmarks/results/ as JSON and
Markdown, with the machine it was made on. A benchmark that fails is a line of it, and makes the exit code 1; where the
extra `bench` is not installed nothing is measured, and it is 2.
"""

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.tracking.client import configure_mlflow

FOLDER = Path(__file__).parent
ALL = (
    "start", "losses", "input_pipeline", "training_step", "bootstrap", "evaluation", "reading", "overhead",
    "growth",
)  # fmt: skip
PEERS = ("transformers", "torchmetrics", "faster_coco_eval")  # of the extra `bench`
COLUMNS = ["what", "peer", "work", "ratio", "spread", "aim", "figures"]


def measure(name: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of one module; if it fails, one that says so under "error"."""
    try:
        for entry in importlib.import_module(f"benchmarks.{name}").entries():
            yield asdict(entry)
    except Exception as error:  # a peer that is broken must not cost the other lines
        yield {"what": name, "error": f"{type(error).__name__}: {error}"}


def machine() -> dict[str, Any]:
    """Description of the machine, on which the figures depend."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load before": round(os.getloadavg()[0], 1),
    } | ({"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def markdown(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Format the table and the machine that it was measured on."""
    columns = [*COLUMNS, "error"] if any("error" in row for row in rows) else COLUMNS
    shown = [row | {"figures": ", ".join(f"{k} {v:.4g}" for k, v in row.get("figures", {}).items())} for row in rows]
    table = pd.DataFrame(shown).reindex(columns=columns).astype(object)
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    return f"{table.where(table.notna(), '').to_markdown(index=False, floatfmt='.3g')}\n\n{told}\n"


def main(names: list[str], output: Path = FOLDER / "results") -> int:
    """Measure, print and keep; returns the exit code."""
    if missing := [name for name in PEERS if not importlib.util.find_spec(name)]:
        print(f"error: {', '.join(missing)} cannot be imported; pip install -e '.[bench]'", file=sys.stderr)
        return 2
    configure_mlflow()
    about, rows = machine(), []
    output.mkdir(parents=True, exist_ok=True)
    for name in names or ALL:
        print(f"{name} ...", flush=True)
        for row in measure(name):
            rows.append(row)  # kept after each: what was measured is not lost by what comes later
            (output / "table.json").write_text(json.dumps({"machine": about, "entries": rows}, indent=1))
            (output / "table.md").write_text(markdown(about, rows))
    print(markdown(about, rows), f"\n{output / 'table.json'}\n{output / 'table.md'}", sep="")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
