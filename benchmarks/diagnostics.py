"""What the diagnostics cost: one training with them and the same without, in turns, step by step.

    .venv/bin/python benchmarks/diagnostics.py                          the built-in set, model=small (1 min)
    .venv/bin/python benchmarks/diagnostics.py --steps 100 --val 50     the same in seconds
    .venv/bin/python benchmarks/diagnostics.py --json FILE              the figures as JSON too

Figures are CPU time of the process on one thread, so other work on the machine counts little; each step and each
evaluation is done by both trainings before the next, so that what is left of it falls on both. Steps, steps that
measure their update, evaluations and the last evaluation are told apart, and put together for a run of `--horizon`
steps at the default settings: 10 evaluations, an update measured every 200 steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from detr.config import RunConfig, TrainConfig
from detr.train import train
from experiments.definition.compose import compose, run_config

EVALUATIONS = TrainConfig().evaluations


def configuration(root: Path, steps: int, evaluations: int, num_val: int, every: int) -> RunConfig:
    """The settings of data=shapes model=small, on one thread."""
    overrides = {
        "data.root": root,
        "data.shapes_num_train": 500,  # enough not to read the same file again and again
        "data.shapes_num_val": num_val,
        "data.num_workers": 0,
        "horizon": f"{steps} steps",
        "train.device": "cpu",
        "train.num_threads": 1,
        "train.evaluations": evaluations,
        "train.update_ratio_steps": every,
    }
    return run_config(compose([f"{key}={value}" for key, value in overrides.items()]), seed=0)


def measure(config: RunConfig, directory: Path) -> list[dict[str, float | str]]:
    """CPU seconds of each record with diagnostics and without: kind (step, measured step, evaluation, last evaluation).

    Both trainings must come to the same losses: they are one training.
    """
    runs = {}
    for on in (True, False):
        folder = directory / str(on)
        folder.mkdir()
        runs[on] = train(replace(config, train=replace(config.train, diagnostics=on)), folder)
    rows = []
    finished = False
    while not finished:
        seconds, records = {}, {}
        for on in (True, False) if len(rows) % 2 else (False, True):  # each goes first every other time
            begin = time.process_time()
            records[on] = next(runs[on], None)
            seconds[on] = time.process_time() - begin
        finished = records[True] is None
        if finished or not rows:  # the first record holds the set-up
            rows += [] if finished else [{"kind": "set-up", "with": seconds[True], "without": seconds[False]}]
            continue
        record, other = records[True], records[False]
        loss = "val/loss" if "val/loss" in record.metrics else "train/loss"
        assert record.metrics[loss] == other.metrics[loss], "diagnostics changed the training"
        if loss == "val/loss":
            kind = "last evaluation" if record.step == record.num_steps else "evaluation"
        else:
            kind = "measured step" if "diagnostics/update_ratio_main" in record.metrics else "step"
        rows.append({"kind": kind, "with": seconds[True], "without": seconds[False]})
    return rows


def summarise(rows: list[dict[str, float | str]], horizon: int, every: int) -> dict[str, float]:
    """Medians of a kind of record, and from them the cost in a run of `horizon` steps."""
    counts = {
        "step": horizon - horizon // every,
        "measured step": horizon // every,
        "evaluation": EVALUATIONS - 1,
        "last evaluation": 1,
    }
    figures: dict[str, float] = {}
    added = total = 0.0
    for kind, count in counts.items():
        pairs = [(r["with"], r["without"]) for r in rows if r["kind"] == kind]
        without = statistics.median(b for _, b in pairs)
        # Of neighbours in time. What comes out below 0 is noise: diagnostics do not make a step faster.
        difference = max(0.0, statistics.median(a - b for a, b in pairs))
        figures |= {f"{kind} without (ms)": 1000 * without, f"{kind} adds (ms)": 1000 * difference}
        total += count * without
        added += count * difference
    return figures | {
        f"run of {horizon} steps without (s)": total,
        "diagnostics add (s)": added,
        "cost (%)": 100 * added / total,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps that are measured")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help="evaluations among them")
    parser.add_argument("--val", type=int, default=300, help="validation images")
    parser.add_argument("--every", type=int, default=20, help="steps from one measured update ratio to the next, here")
    parser.add_argument("--horizon", type=int, default=2000, help="steps of the run whose cost is told")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = configuration(root, arguments.steps, arguments.evaluations, arguments.val, arguments.every)
        rows = measure(config, root)
    figures = summarise(rows, arguments.horizon, TrainConfig().update_ratio_steps)
    for key, value in figures.items():
        print(f"{key:<48}{value:10.2f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(vars(arguments) | {"json": str(arguments.json), "figures": figures}, indent=1)
        )


if __name__ == "__main__":
    main()
