"""The doctor's command: audit a data set in COCO format and a set-up, and advise changes.

    detr-doctor --shapes
    detr-doctor --root FOLDER --train-annotations FILE --train-images DIR --val-annotations FILE --val-images DIR
    detr-doctor --config RUN/config.json --sheet sheet.png --overfit --speed

Names all faults in one pass. Exit codes: 0 no errors, 1 errors found or the overfitting failed, 2 the input is wrong.
"""

import argparse
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from detr.config import RunConfig
from detr.config_io import from_dict
from detr.data import split_paths
from detr.doctor.checks import Audit, audit, enough_queries
from detr.doctor.contact_sheet import draw_sheet
from detr.doctor.report import Visit, as_json, print_report
from detr.doctor.trials import Overfit, Speed, measure_speed, overfit
from detr.errors import InputError, run_command
from detr.step import NonFiniteLoss

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Presets:
    """Settings to audit with if no run's own are given; composed when they are asked for."""

    models: Mapping[str, Callable[[], RunConfig]]  # by the name that --model takes; the first is the default
    shapes: Callable[[], RunConfig]  # of its data and evaluation, for --shapes


def build_parser(models: Collection[str]) -> argparse.ArgumentParser:
    """Build the parser of the command's options; `models` are the choices of --model."""
    parser = argparse.ArgumentParser(prog="detr-doctor", description="Audit a data set and a set-up.")
    data = parser.add_argument_group("data (default: that of --config)")
    data.add_argument("--root", type=Path, metavar="DIR", help="where relative paths start; alone: COCO 2017's names")
    for split in SPLITS:
        data.add_argument(f"--{split}-annotations", metavar="FILE", help=f"COCO annotation file of {split}")
        data.add_argument(f"--{split}-images", metavar="DIR", help=f"folder of its images; {split} may be left out")
    data.add_argument("--shapes", action="store_true", help="the built-in set (drawn below --root, default datasets)")
    setup = parser.add_argument_group("set-up")
    setup.add_argument("--config", type=Path, metavar="FILE", help="config.json of a run: audit its data and settings")
    first = next(iter(models))
    setup.add_argument("--model", choices=models, default=first, help=f"settings without --config (default: {first})")
    setup.add_argument("--num-queries", type=int, metavar="N", help="audit with this model.num_queries")
    setup.add_argument("--image-size", type=int, metavar="PX", help="and this data.image_size")
    setup.add_argument("--max-size", type=int, metavar="PX", help="and this data.max_size (default: in proportion)")
    setup.add_argument("--area-limits", type=float, nargs=2, metavar="PX2", help="and these evaluation.area_limits")
    trials = parser.add_argument_group("trials")
    trials.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet with boxes (PNG)")
    trials.add_argument("--overfit", action="store_true", help="check that the model learns 8 images by heart")
    trials.add_argument("--overfit-steps", type=int, default=300, metavar="N", help="in so many steps (default: 300)")
    trials.add_argument("--speed", action="store_true", help="measure loading against computing")
    trials.add_argument("--num-workers", type=int, default=2, metavar="N", help="for --speed: beside 0 (default: 2)")
    trials.add_argument("--device", metavar="NAME", help="torch device (default: the run's, else the best there is)")
    trials.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of torch (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def read_config(options: argparse.Namespace, presets: Presets) -> RunConfig:
    """The settings to audit: --config or a preset, changed by the options. InputError if they are wrong."""
    config = _base_config(options, presets)
    if options.shapes:
        shapes = presets.shapes()
        data = replace(shapes.data, root=str(options.root or shapes.data.root))
        config = replace(config, data=data, evaluation=shapes.evaluation)
    elif options.root or _given_splits(options):
        paths = {f"{s}_{k}": getattr(options, f"{s}_{k}") for s in SPLITS for k in ("annotations", "images")}
        paths = {key: value for key, value in paths.items() if value}
        config = replace(config, data=replace(config.data, name="coco", root=str(options.root or "."), **paths))
    elif not options.config:
        raise InputError("give the data: --root, --train-annotations and --train-images, or --shapes, or --config")
    if options.image_size is not None:
        longer = round(options.image_size * config.data.max_size / config.data.image_size)
        sizes = {"image_size": options.image_size, "max_size": options.max_size or longer}
        config = replace(config, data=replace(config.data, **sizes))
    elif options.max_size is not None:
        config = replace(config, data=replace(config.data, max_size=options.max_size))
    if options.num_queries is not None:
        config = replace(config, model=replace(config.model, num_queries=options.num_queries))
    if options.area_limits is not None:
        config = replace(config, evaluation=replace(config.evaluation, area_limits=tuple(options.area_limits)))
    given = {key: getattr(options, key) for key in ("device", "num_threads") if getattr(options, key) is not None}
    return replace(config, train=replace(config.train, **given))


def _base_config(options: argparse.Namespace, presets: Presets) -> RunConfig:
    if options.overfit_steps < 1 or options.num_workers < 0:
        raise InputError("--overfit-steps must be at least 1, --num-workers at least 0")
    if not options.config:
        return presets.models[options.model]()
    try:
        content = json.loads(options.config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"--config {options.config}: not a JSON file ({error})") from None
    return from_dict(RunConfig, content)


def _given_splits(options: argparse.Namespace) -> list[str]:
    """The splits that the options name; InputError when one is named by half."""
    given = []
    for split in SPLITS:
        halves = [getattr(options, f"{split}_{key}") is not None for key in ("annotations", "images")]
        if any(halves) and not all(halves):
            raise InputError(f"give both --{split}-annotations and --{split}-images")
        given += [split] * all(halves)
    return given


def visit(options: argparse.Namespace, presets: Presets, console: Console) -> Visit:
    """Audit, draw and run the trials that the options ask for."""
    sheet: Path | None = options.sheet
    if sheet and (sheet.is_dir() or not sheet.absolute().parent.is_dir()):
        raise InputError(f"--sheet {sheet}: must be a file in a folder that exists")
    config = read_config(options, presets)
    splits = {split: split_paths(config.data, split) for split in _given_splits(options) or SPLITS}
    if sheet and sheet.exists() and any(sheet.samefile(annotations) for annotations, _ in splits.values()):
        raise InputError(f"--sheet {sheet}: would overwrite an input")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading images", total=None)
        found = audit(splits, config, lambda: progress.advance(task))
        progress.remove_task(task)
        if sheet:
            draw_sheet(found, sheet)
        trial = _trial_config(config, splits, found)
        learned: Overfit | str | None = None
        rates: Speed | str | None = None
        if options.overfit:
            task = progress.add_task("overfitting", total=options.overfit_steps)
            try:
                learned = overfit(trial, options.overfit_steps, config.optim.lr, lambda: progress.advance(task))
            except InputError as error:
                learned = str(error)
        if options.speed:
            progress.add_task("measuring speed", total=None)
            try:
                rates = measure_speed(trial, options.num_workers)
            except (InputError, NonFiniteLoss) as error:
                rates = str(error)
    return Visit(config, found, learned, rates)


def _trial_config(config: RunConfig, splits: dict[str, tuple[Path, Path]], found: Audit) -> RunConfig:
    """The settings with the first split alone, and with queries enough for it."""
    annotations, images = (str(path.absolute()) for path in next(iter(splits.values())))
    data = replace(
        config.data,
        name="coco",
        root=".",
        train_annotations=annotations,
        val_annotations=annotations,
        train_images=images,
        val_images=images,
    )
    most, queries = max(c.most_objects for c in found.census.values()), config.model.num_queries
    queries = queries if most <= queries else enough_queries(most)
    return replace(config, data=data, model=replace(config.model, num_queries=queries))


def run(argv: list[str] | None, presets: Presets) -> int:
    """Run the command; returns the exit code."""
    options = build_parser(presets.models).parse_args(argv)
    return run_command(lambda: print_visit(options, presets))


def print_visit(options: argparse.Namespace, presets: Presets) -> int:
    """Do what the options ask for, and print the report."""
    result = visit(options, presets, Console(stderr=True, soft_wrap=True))
    console = Console(soft_wrap=options.json)
    if options.json:
        console.print(as_json(result), markup=False, highlight=False)
    else:
        print_report(result, console)
    return result.exit_code
