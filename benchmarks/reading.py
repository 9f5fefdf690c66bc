"""Reading histories of metrics from a store of SQLite, against MLflow's own client.

    .venv/bin/python -m benchmarks.reading

All histories of 40 runs, 12 metrics of 200 values each, in CPU time. Both must find the same values.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from benchmarks.dashboard import build
from benchmarks.table import Entry, interleave, ratio_and_spread, show
from experiments.results.reading.histories import load_history
from experiments.schema import names


def entries(repetitions: int = 3, num_runs: int = 40, num_metrics: int = 12, num_values: int = 200) -> Iterator[Entry]:
    """CPU seconds of all histories."""
    with tempfile.TemporaryDirectory() as folder:
        store = build(Path(folder) / "store", num_runs, num_metrics, num_values)
        client = MlflowClient(store.tracking_uri)
        experiment = client.get_experiment_by_name(store.ablations)
        found = client.search_runs([experiment.experiment_id], f"tags.`{names.ARM}` != ''", max_results=1000)
        runs, keys = [run.info.run_id for run in found], [k for k in found[0].data.metrics if "progress/" not in k]

        def ours() -> float:
            return sum(load_history(store, runs, key)["value"].sum() for key in keys)

        def theirs() -> float:
            return sum(point.value for run in runs for key in keys for point in client.get_metric_history(run, key))

        assert abs(ours() - theirs()) < 1e-6 * abs(theirs()), "the two read different values"
        seconds = interleave({"ours": ours, "theirs": theirs}, repetitions, time.process_time)
    ratio, spread = ratio_and_spread(seconds["ours"], seconds["theirs"])
    work = f"all histories of {num_runs} runs x {num_metrics} metrics x {num_values} values, CPU time"
    figures = {f"{key} (s)": statistics.median(seconds[key]) for key in seconds}
    yield Entry("reading histories", "MLflow's client", work, ratio, spread, "faster", figures)


if __name__ == "__main__":
    show(entries())
