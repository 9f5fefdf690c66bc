"""What grows with the number of runs and writers: uploads, and reading the store. Figures are in docs/scaling.md.

    .venv/bin/python benchmarks/scaling.py writers --count 100                       into a SQLite file of its own
    DETR_STORE=services/mlflow.yaml .venv/bin/python benchmarks/scaling.py writers   into that store, as make services
    .venv/bin/python benchmarks/scaling.py runs --count 10000                        listing and reading many runs
    torchrun --nproc-per-node 2 benchmarks/scaling.py step                           images/s of one run, and what waits

Writers use the code of real runs (experiments.tracking.upload) on folders whose journals grow as in training.
"""

import argparse
import json
import multiprocessing
import os
import sqlite3
import tempfile
import time
import timeit
from dataclasses import replace
from pathlib import Path

import numpy as np

ROUNDS = 5  # uploads of each writer
LINES = 25  # records that come to a journal from one upload to the next: 5 s at 5 steps/s
METRICS = ["val/AP", *(f"train/metric_{i}" for i in range(14))]
PARAMS = {f"group.setting_{i}": str(i) for i in range(70)}


def own_store(folder: Path) -> None:
    """A store of SQLite in the folder, unless DETR_STORE names another."""
    if "DETR_STORE" not in os.environ:
        text = (Path(__file__).resolve().parents[1] / "mlflow.yaml").read_text()
        (folder / "mlflow.yaml").write_text(text)
        os.environ["DETR_STORE"] = str(folder / "mlflow.yaml")


def folders(root: Path, count: int, arms: int) -> list[tuple[Path, list[Path]]]:
    """Folders of ablations with `arms` runs each, `count` runs in all, with what Upload is to send but no records."""
    from experiments.folders.files import Folder, write_json
    from experiments.schema import names
    from experiments.schema.design import Design

    made = []
    for first in range(0, count, arms):
        above = root / f"ablation-{first}"
        above.mkdir(parents=True)
        levels = {f"arm={i}": {"arm": str(i)} for i in range(arms)}
        design = Design(
            name="many", question="?", design="factorial", factors={"arm": tuple(str(i) for i in range(arms))},
            arms=levels, baseline="arm=0", primary=None, horizon="10000 steps", seeds=(0,),
        )  # fmt: skip
        write_json(above / names.DESIGN, design.to_dict())
        tags = {names.ABLATION: "many", names.RUN_DIRECTORY: str(above)}
        Folder(above).track("many", tags, experiment="ablations")
        Folder(above).update(state="running")
        runs = [above / f"arm={i}" for i in range(min(arms, count - first))]
        for i, run in enumerate(runs):
            run.mkdir()
            tags = names.RunTags(f"arm={i}", 0, "0").to_dict() | {names.RUN_DIRECTORY: str(run)}
            Folder(run).track(f"arm={i},seed=0", tags, parent="..", params=PARAMS)
            Folder(run).update(state="running")
        made.append((above, runs))
    return made


def grow(run: Path, first_step: int, rng: np.random.Generator) -> None:
    """Add LINES records to a run's journal."""
    from experiments.folders.files import Journal
    from experiments.schema import names
    from experiments.schema.record import RecordLine

    for step in range(first_step, first_step + LINES):
        metrics = dict(zip(METRICS, rng.random(len(METRICS)).tolist(), strict=True))
        lengths = {"num_steps": 10_000, "epoch": 0.1, "samples": step, "seconds": step / 5}
        Journal(run / names.RECORDS).append(RecordLine.stamped(step=step, metrics=metrics, **lengths))


def writers(count: int) -> None:
    """`count` runs that upload at the same time, each ROUNDS times as fast as the store lets them."""
    with tempfile.TemporaryDirectory() as folder:
        own_store(Path(folder))
        from experiments.schema.store import load_store
        from experiments.tracking.client import Tracker
        from experiments.tracking.upload import Upload

        store = load_store()
        above, runs = folders(Path(folder) / "runs", count, count)[0]
        Upload(above, Tracker(store)).open()
        context = multiprocessing.get_context("fork")  # a run is a process, with connections of its own
        start, results = context.Barrier(count + 1), context.Queue()

        def write(run: Path, seed: int) -> None:
            upload, rng, took, faults = Upload(run, Tracker(store)), np.random.default_rng(seed), [], []
            start.wait()
            for i in range(ROUNDS):
                grow(run, 1 + i * LINES, rng)
                sent = False
                while not sent:  # what failed is sent again, as runs do
                    began = time.perf_counter()
                    try:
                        upload.send()
                        sent = True
                    except Exception as error:  # whatever the store answers is the measurement
                        faults.append(f"{type(error).__name__}: {str(error)[:100]}")
                    took.append(time.perf_counter() - began)
            results.put((took, faults))

        processes = [context.Process(target=write, args=(run, i)) for i, run in enumerate(runs)]
        for process in processes:
            process.start()
        start.wait()
        began = time.perf_counter()
        found = [results.get() for _ in processes]
        seconds = time.perf_counter() - began
        took, faults = [t for times, _ in found for t in times], [fault for _, said in found for fault in said]
        print(f"{store.tracking_uri.partition(':')[0]}: {count} writers, {count * ROUNDS} uploads in {seconds:.1f} s")
        print(f"one upload: median {np.median(took):.2f} s, 95th percentile {np.quantile(took, 0.95):.2f} s")
        print(f"{count * ROUNDS * LINES * len(METRICS) / seconds:.0f} values/s; {len(faults)} faults {faults[:1]}")
        print(f"{count * ROUNDS * LINES - sum(points(store, run) for run in runs)} points of one metric are missing")


def points(store, run: Path) -> int:
    """Points that MLflow has of one metric of a run."""
    from mlflow import MlflowClient

    from experiments.tracking.upload import noted

    return len(MlflowClient(store.tracking_uri).get_metric_history(noted(run)["run_id"], METRICS[0]))


def many_runs(count: int, arms: int = 4) -> dict[str, float]:
    """Seconds of what reads a store of `count` runs. They are copies, row by row, of one ablation that was uploaded."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.pop("DETR_STORE", None)
        own_store(Path(folder))
        from experiments.folders.files import Folder
        from experiments.results.reading.ablations import earlier_runs, load_ablation, newest_ablation
        from experiments.results.reading.listing import list_ablations
        from experiments.schema.metrics import AP
        from experiments.schema.store import load_store
        from experiments.tracking.client import Tracker
        from experiments.tracking.upload import Upload

        store = load_store()
        tracker, (above, runs) = Tracker(store), folders(Path(folder) / "runs", arms, arms)[0]
        for run in runs:
            grow(run, 1, np.random.default_rng(0))
            Folder(run).update(state="finished")
        for path in (above, *runs):
            Upload(path, tracker).send()
        copy_runs(store.database, count // arms - 1)
        newest = newest_ablation(store)
        grow(runs[0], 1 + LINES, np.random.default_rng(1))
        reads = {
            "list the ablations": lambda: list_ablations(store),
            "find the newest": lambda: newest_ablation(store),
            "read one ablation": lambda: load_ablation(store, newest),
            "read all earlier runs, as plan=true does": lambda: earlier_runs(store, [AP]),
            "first page of MLflow's list": lambda: tracker.client.search_runs(["1"], max_results=100),
        }
        seconds = {name: min(timeit.repeat(read, number=1, repeat=3)) for name, read in reads.items()}
        seconds["upload 25 records"] = timeit.timeit(lambda: Upload(runs[0], tracker).send(), number=1)
        return seconds | {"size (MiB)": store.database.stat().st_size / 2**20}


def copy_runs(database: Path, copies: int) -> None:
    """Copy all runs so many times, with ids of their own."""
    with sqlite3.connect(database) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if "run_uuid" not in columns or table in ("datasets", "inputs"):
                continue
            chosen = [
                "CASE WHEN key = 'mlflow.parentRunId' THEN substr(value, 1, 24) || printf('%08x', n) ELSE value END"
                if table == "tags" and column == "value"
                else "substr(run_uuid, 1, 24) || printf('%08x', n)"
                if column == "run_uuid"
                else f'"{column}"'
                for column in columns
            ]
            numbers = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies})"
            names = ", ".join(f'"{column}"' for column in columns)
            connection.execute(
                f"INSERT INTO {table} ({names}) {numbers} SELECT {', '.join(chosen)} FROM {table}, numbers"
            )


def step(steps: int = 12) -> None:
    """Throughput of training steps of the small model on drawn scenes over the processes that torchrun started."""
    import torch

    from detr.config import DataConfig, ModelConfig, RunConfig, TrainConfig
    from detr.data.batch import batches
    from detr.distributed import broadcast, is_rank_zero, process_group, world_size
    from detr.setup import Progress, prepare, train_loader
    from detr.step import train_step

    torch.set_num_threads(1)
    with process_group(), tempfile.TemporaryDirectory() as folder:
        data = DataConfig(name="shapes", root=broadcast(folder), augmentation="none", image_size=128, max_size=128,
                          shapes_image_size=128, shapes_num_train=200, shapes_num_val=2, num_workers=0)  # fmt: skip
        model = ModelConfig(
            backbone="resnet18", pretrained=False, num_classes=None, num_encoder_layers=2, num_decoder_layers=2
        )
        config = RunConfig(model=model, data=data, train=TrainConfig(batch_size=4, accumulate=4, device="cpu"))
        setup = prepare(config)
        config = replace(config, schedule=replace(config.schedule, horizon=f"{steps} steps"))
        stream, progress, took = batches(train_loader(setup, 0)), Progress(), []
        own = [next(stream) for _ in range(config.train.accumulate // world_size())]
        for _ in range(steps):
            began = time.perf_counter()
            train_step(setup, progress, own)
            took.append(time.perf_counter() - began)
        if is_rank_zero():
            seconds, millions = float(np.median(took[2:])), sum(p.numel() for p in setup.model.parameters()) / 1e6
            speed = f"{seconds:.3f} s a step, {16 / seconds:.1f} images/s"
            print(f"{world_size()} processes: {speed}, {millions:.1f} million parameters")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("writers", "runs", "step"))
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    if arguments.what == "writers":
        writers(arguments.count or 100)
    elif arguments.what == "runs":
        print(json.dumps(many_runs(arguments.count or 10_000), indent=1))
    else:
        step()
