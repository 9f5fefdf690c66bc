"""How long the dashboard takes on a large store, measured in a browser: 200 runs x 50 metrics x 500 epochs.

    .venv/bin/python benchmarks/dashboard.py                                   everything (some minutes)
    .venv/bin/python benchmarks/dashboard.py --runs 20 --epochs 50             the same in a minute
    .venv/bin/python benchmarks/dashboard.py --folder DIR                      keep the store there, and use it again

A page paints its heading, then its first table or figure (the table of AP, the curves), and is complete when its script
has ended, intervals and verdicts included. Cold is a server that was just started and a new browser, warm the same page
in another tab of that browser. Times are those of the wall: other work on the machine adds to them, so its load is
told, and beside them the server's own CPU time.
"""

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from experiments.results.reading.histories import load_history
from experiments.schema import names
from experiments.schema.design import Design
from experiments.schema.store import ROOT, Store, load_store
from experiments.tracking.database import initialise

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SEEDS = 10  # of every arm
IMAGES, WIDTH, HEIGHT, DETECTIONS = 48, 320, 240, 20  # images; detections an image
MEASURED = ("train/loss", "val/loss", "val/AP", "val/AP50", "val/AP75", "train/grad_norm", "train/clip_fraction")
SAMPLE = 4  # runs whose histories MLflow's own API reads: all of them take minutes
SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"
# the figures of the table and the drawn boxes, which live behind a shadow root
SHOWN = """() => {
  const hosts = [document, ...[...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)];
  const gallery = hosts.map(h => h.querySelector('#gallery')).find(Boolean);
  const cells = [...document.querySelectorAll('[data-testid=stDataFrame] [role=gridcell]')].map(c => c.textContent);
  return gallery && cells.length ? [cells.join(), gallery.innerHTML.length].join() : '';
}"""


def build(folder: Path, num_runs: int, num_metrics: int, num_epochs: int) -> Store:
    """Write the store: runs with settings and detections as MLflow writes them, metrics straight into its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "mlflow.yaml", folder)
    store = load_store(folder / "mlflow.yaml")
    initialise(store)
    client, rng = MlflowClient(store.tracking_uri), np.random.default_rng(0)
    experiment = client.create_experiment(store.ablations, artifact_location=(folder / "artifacts").as_uri())
    truth = scenes(folder / "images", rng)
    arms = [f"lr={i}" for i in range(num_runs // SEEDS)]
    design = Design(
        name="large",
        question="How fast is the dashboard?",
        design="factorial",
        factors={"lr": tuple(str(i) for i in range(len(arms)))},
        arms={arm: {"lr": str(i)} for i, arm in enumerate(arms)},
        baseline=arms[0],
        primary=None,
        horizon=f"{num_epochs} epochs",
        seeds=tuple(range(SEEDS)),
        settings={arm: {"optim.lr": 1e-4 * (i + 1)} for i, arm in enumerate(arms)},
        images=str(folder / "images"),
    )
    parent = client.create_run(experiment, run_name="large").info.run_id
    client.log_batch(parent, tags=[RunTag(names.ABLATION, "large"), RunTag(names.STATE, "finished")])
    client.log_text(parent, json.dumps(design.to_dict()), names.DESIGN)
    client.log_text(parent, json.dumps(truth), names.ANNOTATIONS)
    runs = []
    for arm in arms:
        for seed in range(SEEDS):
            run = client.create_run(experiment, run_name=f"{arm},seed={seed}").info.run_id
            tags = {names.PARENT: parent, names.ARM: arm, names.SEED: str(seed), names.STATE: "finished"}
            params = {"schedule.full_epochs": 500.0, "evaluation.area_limits": "[1024.0, 9216.0]", "optim.lr": arm}
            client.log_batch(
                run,
                [Metric(names.STEP, num_epochs, 0, num_epochs), Metric(names.EPOCH, num_epochs, 0, num_epochs)],
                [Param(key, str(value)) for key, value in params.items()],
                [RunTag(key, value) for key, value in tags.items()],
            )
            client.log_text(run, json.dumps(detections(truth, rng)), names.PREDICTIONS)
            client.set_terminated(run)
            runs.append(run)
    keys = [*MEASURED, *(f"metric/{i}" for i in range(num_metrics - len(MEASURED)))]
    insert(store.database, runs, keys, num_epochs, rng)
    return store


def scenes(folder: Path, rng: np.random.Generator) -> dict:
    """Images of noise with three objects each, and their annotations."""
    folder.mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 6)]}
    for i in range(1, IMAGES + 1):
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
        content["images"].append({"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT})
        for _ in range(3):
            box = [*rng.uniform(0, 150, 2).tolist(), *rng.uniform(20, 80, 2).tolist()]
            place = {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": int(rng.integers(1, 6))}
            content["annotations"].append(place | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    return content


def detections(truth: dict, rng: np.random.Generator) -> list[dict]:
    """Every object, badly placed, and others anywhere."""
    found = []
    for one in truth["annotations"]:
        box = (np.array(one["bbox"]) + rng.normal(0, 5, 4)).clip(1).round(2).tolist()
        found.append({"image_id": one["image_id"], "category_id": one["category_id"], "bbox": box})
    for image in truth["images"]:
        for box in rng.uniform(5, 90, (DETECTIONS - 3, 4)).round(2).tolist():
            found.append({"image_id": image["id"], "category_id": int(rng.integers(1, 6)), "bbox": box})
    return [one | {"score": round(float(score), 4)} for one, score in zip(found, rng.random(len(found)), strict=True)]


def insert(database: Path, runs: list[str], keys: list[str], num_epochs: int, rng: np.random.Generator) -> None:
    """All metrics of all runs, in the order of MLflow's primary key, which is the fast one."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        for key in sorted(keys):
            values = np.exp(-np.arange(1, num_epochs + 1) / num_epochs)[:, None] + rng.normal(0, 0.02, (1, len(runs)))
            rows = (
                (key, float(values[epoch, i]), 1000 * epoch, run, epoch + 1, 0)
                for epoch in range(num_epochs)
                for i, run in enumerate(runs)
            )
            connection.executemany("INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
                                   "VALUES (?, ?, ?, ?, ?, ?)", rows)  # fmt: skip
            last = [
                (key, float(v), 1000 * num_epochs, num_epochs, 0, run) for v, run in zip(values[-1], runs, strict=True)
            ]
            connection.executemany("INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
                                   "VALUES (?, ?, ?, ?, ?, ?)", last)  # fmt: skip


@contextmanager
def serving(store_file: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The dashboard on the store, just started: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/app.py", "--server.port", str(port)]
    environment = os.environ | {"DETR_STORE": str(store_file)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        next(line for line in process.stdout if "URL:" in line)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def new_context(browser: Browser) -> BrowserContext:
    """A browser with nothing cached."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(120_000)
    return context


def opening(context: BrowserContext, address: str, content: str) -> dict[str, float]:
    """Seconds until a page's heading is there, its first table or figure, and the end of its script, in a new tab."""
    with closing(context.new_page()) as page:
        begin = time.perf_counter()
        page.goto(address)
        seconds = {}
        for name, selector in (("heading", "h1"), ("table or curves", content), ("complete", SETTLED)):
            page.locator(selector).first.wait_for(state="attached")
            seconds[f"{name} (s)"] = time.perf_counter() - begin
        return seconds


def threshold_change(browser: Browser, address: str, changes: int, server: psutil.Process) -> tuple[float, float]:
    """Seconds from a key on the slider until figures and boxes of 12 images in two arms are new (median), and CPU
    seconds of the server for it (mean).
    """
    with closing(new_context(browser).new_page()) as page:
        page.goto(f"{address}/detections?threshold=0.3")
        page.wait_for_function(f"({SHOWN})() !== ''")
        page.get_by_role("slider", name="Score threshold").focus()
        page.locator(SETTLED).wait_for()
        seconds, work = [], seconds_of(server)
        for _ in range(changes):
            page.locator(SETTLED).wait_for()
            before, begin = page.evaluate(SHOWN), time.perf_counter()
            page.keyboard.press("ArrowRight")
            page.wait_for_function(f"before => ({SHOWN})() !== before", arg=before)
            seconds.append(time.perf_counter() - begin)
        page.locator(SETTLED).wait_for()
        return statistics.median(seconds), (seconds_of(server) - work) / changes


def seconds_of(process: psutil.Process) -> float:
    """CPU seconds that the process has used."""
    used = process.cpu_times()
    return used.user + used.system


def histories(store: Store) -> tuple[float, float]:
    """CPU seconds to read every history of every run: by the dashboard's reader, and by MLflow's API from a sample."""
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name(store.ablations).experiment_id
    found = client.search_runs(
        [experiment], f"tags.`{names.STATE}` = 'finished' and tags.`{names.ARM}` != ''", max_results=1000
    )
    runs, keys = [run.info.run_id for run in found], list(found[0].data.metrics)

    def ours() -> None:
        for key in keys:
            load_history(store, runs, key)

    def mlflow() -> None:
        for run in runs[:SAMPLE]:
            for key in keys:
                client.get_metric_history(run, key)

    return cpu(ours), cpu(mlflow) * len(runs) / SAMPLE


def cpu(work: Callable[[], None]) -> float:
    """CPU seconds of the process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure(store: Store, store_file: Path, changes: int) -> dict[str, float]:
    """All figures, by their names."""
    figures: dict[str, float] = {}
    pages = {
        "Ablation": ("", "[data-testid=stDataFrame] canvas"),
        "Curves": ("curves", ".js-plotly-plot .scatterlayer .trace"),
    }
    with sync_playwright() as playwright:
        path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        launch = partial(playwright.chromium.launch, executable_path=path, args=FLAGS)
        for name, (url, content) in pages.items():
            with serving(store_file) as (address, server), closing(launch()) as browser:
                context = new_context(browser)
                for state in ("cold", "warm"):
                    before = seconds_of(server)
                    seconds = opening(context, f"{address}/{url}", content)
                    figures |= {f"{name}, {state}: {what}": value for what, value in seconds.items()}
                    figures[f"{name}, {state}: CPU of the server (s)"] = seconds_of(server) - before
        with serving(store_file) as (address, server), closing(launch()) as browser:
            wall, work = threshold_change(browser, address, changes, server)
            figures["threshold change, 12 images, 2 arms (ms)"] = 1000 * wall
            figures["threshold change: CPU of the server (ms)"] = 1000 * work
    ours, theirs = histories(store)
    return figures | {
        "all histories, our reader (CPU s)": ours,
        "all histories, MLflow's API (CPU s, from a sample)": theirs,
        "times as fast": theirs / ours,
    }


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help=f"a multiple of {SEEDS}")
    parser.add_argument("--metrics", type=int, default=50, help="metrics of a run")
    parser.add_argument("--epochs", type=int, default=500, help="values of a metric")
    parser.add_argument("--changes", type=int, default=15, help="changes of the threshold")
    parser.add_argument("--folder", type=Path, help="where the store is kept; without, it is thrown away")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name) / "store").resolve()
        file = folder / "mlflow.yaml"
        begin = time.perf_counter()
        store = load_store(file) if file.exists() else build(folder, given.runs, given.metrics, given.epochs)
        print(f"store of {store.database.stat().st_size / 1e6:.0f} MB, {time.perf_counter() - begin:.0f} s to build")
        figures = measure(store, file, given.changes)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for key, value in figures.items():
        print(f"{key:<56}{value:10.2f}")


if __name__ == "__main__":
    main()
