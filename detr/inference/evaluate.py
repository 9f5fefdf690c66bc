"""Evaluate a checkpoint alone on a folder in COCO format.

    detr-evaluate --checkpoint FILE --annotations FILE --images FOLDER

Prints the COCO metrics, the AP of every class and the metric audit, as tables or as JSON. Exit codes: 0 done, 2 the
input is wrong. A finding of the audit is no failure: it is printed with its reason.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from detr.audit import Finding, audit
from detr.config import EvaluationConfig
from detr.criterion import SetCriterion
from detr.data.batch import Batch
from detr.data.coco import CocoDetection, load_annotations
from detr.errors import ExitCode, InputError, run_command
from detr.evaluation import STATS, Detections, coco_classes, evaluate_coco, predict_dataset, validation_loader
from detr.inference.detector import (
    Detector,
    LabelMapping,
    add_checkpoint_arguments,
    label_mapping,
    open_detector,
    read_categories,
)

MARKS = {True: "[green]ok[/green]", False: "[bold red]off[/bold red]", None: "[dim]n/a[/dim]"}


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation, and the settings on which the figures depend."""

    metrics: dict[str, float]  # as `evaluate_coco` gives them
    losses: dict[str, float]
    findings: list[Finding]
    detections: Detections
    settings: dict[str, Any]


def evaluate_checkpoint(
    detector: Detector, annotations: Path, images: Path, labels: LabelMapping | None, progress: Progress
) -> Evaluation:
    """Detect on all images and compare with the annotations; InputError if they do not fit the model."""
    if not images.is_dir():
        raise InputError(f"--images {images}: there is no such folder")
    mapping = label_mapping(detector, read_categories(annotations), labels)
    data = replace(detector.data, labels=mapping)
    dataset = CocoDetection(annotations, images, data, train=False)
    loader = validation_loader(dataset, data, detector.evaluation)
    criterion = SetCriterion(detector.num_classes, detector.run.loss if detector.run else None).to(detector.device)
    task = progress.add_task("images", total=len(dataset))

    def advance(batch: Batch, outputs: dict[str, Any]) -> None:
        progress.advance(task, len(batch.targets))

    detections, losses = predict_dataset(detector.model, loader, criterion, detector.device, advance)
    limits = detector.evaluation.area_limits
    metrics = evaluate_coco(annotations, detections, limits, detector.evaluation.backend)
    settings = {
        "images": len(dataset),
        "labels": mapping,
        "image_size": data.image_size,
        "max_size": data.max_size,
        **{key: value for key, value in asdict(detector.evaluation).items() if key != "extra"},  # COCO's figures alone
    }
    return Evaluation(
        metrics, losses, audit(load_annotations(annotations), detections, metrics, limits), detections, settings
    )


def tables(result: Evaluation) -> Iterator[str | Table]:
    """Tables of metrics, classes and audit for the terminal."""
    yield f"COCO metrics x 100, {result.settings['images']} images"
    for keys in (STATS[:6], STATS[6:]):
        grid = Table(*keys)
        for column in grid.columns:
            column.justify = "right"
        grid.add_row(*(_percent(result.metrics[key]) for key in keys))
        yield grid
    yield "AP x 100 of each class"
    grid = Table("class", "AP")
    grid.columns[1].justify = "right"
    for key, value in result.metrics.items():
        if key.startswith("AP/"):
            grid.add_row(escape(key.removeprefix("AP/")), _percent(value))
    yield grid
    yield "metric audit"
    grid = Table("check", "verdict", "reason")
    for finding in result.findings:
        grid.add_row(finding.name, MARKS[finding.passed], escape(finding.reason))
    yield grid


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "-"


def as_json(result: Evaluation) -> str:
    """JSON of metrics, losses, audit and settings; the detections go to a file of their own."""
    content = asdict(result) | {"findings": [finding._asdict() for finding in result.findings]}
    del content["detections"]
    losses = {k: v if v == v else None for k, v in result.losses.items()}  # JSON has no NaN
    return json.dumps(content | {"losses": losses}, indent=1)


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command's options."""
    parser = argparse.ArgumentParser(prog="detr-evaluate", description="COCO metrics of a checkpoint, and their audit.")
    add_checkpoint_arguments(parser)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO annotation file")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: the run's, else 8)")
    parser.add_argument(
        "--pad-to",
        type=int,
        metavar="PX",
        help="pad each image to a multiple; 0: pad to the batch (default: run's, else 1)",
    )
    parser.add_argument(
        "--area-limits",
        type=float,
        nargs=2,
        metavar="PX2",
        help="small | medium | large (default: the run's, else COCO's 1024 9216)",
    )
    parser.add_argument(
        "--backend",
        choices=get_args(get_type_hints(EvaluationConfig)["backend"]),
        help="package that computes the metrics (default: the run's, else pycocotools)",
    )
    parser.add_argument("--num-workers", type=int, default=2, metavar="N", help="loading processes (default: 2)")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="save the detections in COCO results format")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: print_evaluation(options))


def print_evaluation(options: argparse.Namespace) -> int:
    """Evaluate as the options say, and print the results."""
    result = run(options, Console(stderr=True, soft_wrap=True))
    console = Console(soft_wrap=options.json)
    if options.json:
        console.print(as_json(result), markup=False, highlight=False)
    else:
        for grid in tables(result):
            console.print(grid)
    return ExitCode.DONE


def run(options: argparse.Namespace, console: Console) -> Evaluation:
    """Evaluate as the options say, and save the predictions if asked for."""
    target: Path | None = options.predictions
    if target and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise InputError(f"--predictions {target}: must be a file in a folder that exists")
    if (
        target
        and target.exists()
        and any(target.samefile(p) for p in (options.annotations, options.checkpoint) if p.exists())
    ):
        raise InputError(f"--predictions {target}: would overwrite an input")
    detector = open_detector(options)
    names = ("batch_size", "pad_to", "area_limits", "backend")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "area_limits" in given:
        given["area_limits"] = tuple(given["area_limits"])
    detector = replace(
        detector,
        evaluation=replace(detector.evaluation, **given),
        data=replace(detector.data, num_workers=options.num_workers),
    )
    coco_classes(detector.evaluation.backend)  # whether it is there
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        result = evaluate_checkpoint(detector, options.annotations, options.images, options.labels, progress)
    if target:
        beside = target.with_name(f"{target.name}.unfinished")
        beside.write_text(json.dumps(result.detections))
        beside.replace(target)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
