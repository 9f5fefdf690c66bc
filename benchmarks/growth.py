"""How costs grow: queries of a store of 100 to 10,000 runs, and the doctor's audit of 5,000 to 100,000 images.

    .venv/bin/python -m benchmarks.growth                                   some minutes
    .venv/bin/python -m benchmarks.growth --picture docs/pictures/growth.png

The ratio of an entry is the cost at the largest size over that at the smallest, as a share of the ratio of the sizes: 1
where the cost grows linearly, less where it grows slower.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.table import Entry, show
from detr.config import RunConfig
from detr.doctor.checks import audit
from experiments.schema.store import ROOT

RUNS, IMAGES = (100, 1_000, 10_000), (5_000, 20_000, 100_000)
QUERIES = ("list the ablations", "read one ablation", "read all earlier runs, as plan=true does", "upload 25 records")
AIM = "at most 1: linear"


def queries(count: int) -> dict[str, float]:
    """Seconds of queries of a store of so many runs, by benchmarks/scaling.py in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", "runs", "--count", str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def doctor(count: int) -> float:
    """Seconds of CPU time of an audit of so many images of 32 x 32 pixels with three boxes each."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 32} for i in range(count)]
        for image in images:
            Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / image["file_name"])
        corners = rng.integers(16, size=(3 * count, 2)).tolist()
        annotations = [
            {"id": i, "image_id": i // 3, "category_id": 1, "bbox": [*xy, 9, 9], "area": 81, "iscrowd": 0}
            for i, xy in enumerate(corners)
        ]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        (folder / "annotations.json").write_text(json.dumps(content))
        begin = time.process_time()
        audit({"train": (folder / "annotations.json", folder)}, RunConfig())
        return time.process_time() - begin


def grown(costs: dict[int, float]) -> float:
    """Growth of the cost over growth of the size, from the smallest to the largest."""
    small, large = min(costs), max(costs)
    return costs[large] / costs[small] / (large / small)


def measure() -> dict[str, dict[int, float]]:
    """Seconds by size, of everything that is measured."""
    found = {count: queries(count) for count in RUNS}
    costs = {f"query: {name}": {count: found[count][name] for count in RUNS} for name in QUERIES}
    return costs | {"detr-doctor": {count: doctor(count) for count in IMAGES}}


def entries(costs: dict[str, dict[int, float]] | None = None) -> Iterator[Entry]:
    """A line for everything that is measured."""
    for name, seconds in (costs or measure()).items():
        unit = "images" if name == "detr-doctor" else "runs"
        work = f"{min(seconds):,} to {max(seconds):,} {unit}"
        figures = {f"{count} {unit} (s)": value for count, value in seconds.items()}
        yield Entry(f"{name}, growth as a share", "linear growth", work, grown(seconds), None, AIM, figures)


def draw(costs: dict[str, dict[int, float]], path: Path) -> None:
    """Both axes logarithmic, with a line of linear growth."""
    import matplotlib as mpl  # of the extra dev

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for panel, unit, mine in (
        (panels[0], "runs in the store", "query"),
        (panels[1], "images of the set", "detr-doctor"),
    ):
        chosen = {name: seconds for name, seconds in costs.items() if name.startswith(mine)}
        for (name, seconds), marker in zip(chosen.items(), "os^D", strict=False):
            panel.loglog(list(seconds), list(seconds.values()), marker=marker, label=name.removeprefix("query: "))
        top = max(chosen.values(), key=lambda seconds: seconds[max(seconds)])
        first, last = min(top), max(top)
        panel.loglog([first, last], [top[first], top[first] * last / first], "k:", label="linear")
        panel.set(xlabel=unit, ylabel="seconds")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figure")
    arguments = parser.parse_args()
    measured = measure()
    show(entries(measured))
    if arguments.picture:
        draw(measured, arguments.picture)
