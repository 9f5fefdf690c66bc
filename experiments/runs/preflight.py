"""Checks before the first run: find what would stop a run before any of them spends time."""

from pathlib import Path

from rich.console import Console
from rich.progress import track

from detr.config import RunConfig
from detr.data import open_split
from detr.data.coco import CocoDetection
from detr.evaluation import coco_classes
from detr.setup import build_detector, check_compiler, choose_device, prepare
from experiments.launchers.base import Launcher
from experiments.schema.store import Store


def preflight(configs: list[RunConfig], store: Store, launcher: Launcher, console: Console) -> None:
    """Check data, images, starting weights, device and packages of every arm; InputError names the first fault.

    configs:  one an arm, all on the same data
    """
    num_classes = check_data(configs[0], store.run_root / "verified", console)
    for config in configs:
        if launcher.here and config.own_parts:
            prepare(config)  # tries them
            continue
        if launcher.here:
            device = choose_device(config.train.device)
            if config.train.compile:
                check_compiler(device)
            coco_classes(config.evaluation.backend)
        build_detector(config, config.model.num_classes or num_classes)


def check_data(config: RunConfig, verified: Path, console: Console) -> int:
    """Open both splits, print their summaries and decode their images; returns the number of classes."""
    datasets = [open_split(config.data, split) for split in ("train", "val")]
    for dataset in datasets:
        console.print(dataset.summary())
        if config.data.verify_images:
            verify_once(dataset, verified, console)
    return datasets[-1].num_classes


def verify_once(dataset: CocoDetection, folder: Path, console: Console) -> None:
    """Decode every image of the set, unless that was done and no file has changed since.

    folder:  of empty files that stand for the sets that were verified
    """
    stamp = folder / dataset.files_fingerprint()
    if stamp.exists():
        return
    for _ in track(dataset.verify_images(), "checking images", len(dataset), console=console, transient=True):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    stamp.touch()
