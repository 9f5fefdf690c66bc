"""Sampling of CPU, memory, disk, network and GPU use into a run's journal."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from experiments.folders.files import Journal
from experiments.schema.names import SYSTEM
from experiments.schema.record import RecordLine

SAMPLE_SECONDS = 10.0


@contextmanager
def recorded_use(folder: Path) -> Iterator[None]:
    """Record the use while the block runs. A line's step counts the samples, on from those of earlier sessions.

    MLflow's monitors measure. Its thread around them is not used: it asks the tracking server before every sample.
    """
    journal, monitors, ended = Journal(folder / SYSTEM), available_monitors(), threading.Event()
    last = journal.repair()

    def sample() -> None:
        step = last.step + 1 if last else 0
        while not ended.wait(SAMPLE_SECONDS):
            use = {f"system/{key}": value for key, value in measure(monitors).items()}
            try:
                journal.append(RecordLine.stamped(step=step, metrics=use))
            except OSError:
                return  # the disk is full, which the records will tell
            step += 1

    thread = threading.Thread(target=sample, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def available_monitors() -> list[BaseMetricsMonitor]:
    """Monitors of MLflow, one a kind of device."""
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # no nvidia-ml-py, or no GPU
        monitors.append(GPUMonitor())
    return monitors


def measure(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    """Present use, by MLflow's names."""
    use: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        use |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return use
