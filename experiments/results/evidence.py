"""Everything that a report of an ablation rests on, read from the store once and computed the same way each time."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from detr.audit import AUDITED, COCO_AREA_LIMITS, audit_metrics, other_strata
from experiments.results import conditions
from experiments.results.bootstrap import MatchTable, class_ap, image_weights, read_strictly, tabulate
from experiments.results.detections import matching
from experiments.results.detections.matching import load, read_truth
from experiments.results.detections.scenes import Scene, scenes
from experiments.results.effects import factorial_effects
from experiments.results.figures.curves import CLIPPING, ENTROPY, LOSSES, MATCHING, RATES, Records
from experiments.results.image_intervals import ImageSamples, sample_images
from experiments.results.lengths import arm_lengths, comparison
from experiments.results.reading.ablations import AblationResults, load_ablation, load_annotations, load_predictions
from experiments.results.reading.histories import as_records, load_history
from experiments.results.verdicts import Verdict, verdicts
from experiments.schema.contrasts import Contrast, contrasts
from experiments.schema.metrics import AP, PRECISION, Metric
from experiments.schema.store import Store

SEED = 0  # of the bootstrap: the same report each time
Content = dict[str, list[Any]]  # a COCO annotation file, parsed
REPLICATES, REPLICATES_LARGE, LARGE = 1000, 300, 1000  # beyond LARGE images, 300 take long enough
NO_IMAGES: Content = {"images": [], "annotations": [], "categories": []}
CLASS_COLUMNS = ("class", "arm", "against", "difference", "low", "high")


@dataclass(frozen=True)
class Evidence:
    """Everything known of an ablation, in stored units (AP: 0..1); parts are empty if nothing was stored for them."""

    results: AblationResults
    records: Records  # of finished runs: the metrics that curves of the report show
    conditions: pd.DataFrame  # one row a run and condition: arm, seed, condition, reason
    images: dict[str, ImageSamples]  # metric's key -> the arms' AP on samples of the images
    classes: pd.DataFrame  # of the primary contrast: class, arm, against, difference, low, high
    by_class: Metric  # the AP that `classes` splits
    effects: dict[str, pd.DataFrame]  # metric's key -> `factorial_effects`
    verdicts: list[Verdict]
    scenes: list[Scene]
    length: str  # in what the arms are equally long
    notes: list[str] = field(default_factory=list)  # what is missing, and why


def gather(store: Store, run_id: str, replicates: int | None = None) -> Evidence:
    """Read the ablation with this parent run. `replicates` of the bootstrap: by default 1000, on large sets 300."""
    results = load_ablation(store, run_id)
    notes = [results.note] if results.note else []
    done = results.finished
    ended = results.runs[results.runs["state"].isin(["finished", "failed"])]
    records = _records(store, ended, results.design.metrics)
    annotations = load_annotations(store, results)
    content = _content(annotations, notes)
    replicates = replicates or (REPLICATES if len(content["images"]) <= LARGE else REPLICATES_LARGE)
    found = _predictions(store, results, notes) if content["images"] else {}
    predictions, detections = _read_detections(content, found, notes)
    split = next((metric for metric in results.design.metrics if metric.precision in PRECISION), AP)
    tables = _tables(results, detections, {split, *results.design.metrics}, notes)
    images = {
        metric.key: sample_images(tables[metric.key], replicates, SEED)
        for metric in results.design.metrics
        if tables.get(metric.key)
    }
    conditions_found = run_conditions(results, records, predictions, content)
    primary = next(iter(contrasts(results.design)), None)
    return Evidence(
        results=results,
        records={key: records[key] for key in zip(done["arm"], done["seed"], strict=True) if key in records},
        conditions=conditions_found,
        images=images,
        classes=class_table(tables.get(split.key, {}), primary, replicates),
        by_class=split,
        effects=_effects(results, notes),
        verdicts=verdicts(results.design, done, images, conditions_found),
        scenes=_scenes(results, annotations, predictions, primary, notes),
        length=comparison(arm_lengths(results)),
        notes=notes,
    )


def run_conditions(
    results: AblationResults,
    records: Mapping[tuple[str, int], pd.DataFrame],
    predictions: Mapping[str, Sequence[tuple[int, Path]]],
    content: Content,
) -> pd.DataFrame:
    """One row a run and condition that it has: arm, seed, condition, reason."""
    sizes = {image["id"]: (image.get("width", 0), image.get("height", 0)) for image in content["images"]}
    files = {(arm, seed): path for arm, rows in predictions.items() for seed, path in rows}
    rows = []
    for run in results.runs.to_dict("records"):
        arm, seed, reasons = run["arm"], run["seed"], {}
        frame = records.get((arm, seed), pd.DataFrame())  # a run may fail before its first record
        reasons[conditions.DIVERGED] = conditions.diverged(frame, str(run["error"]))
        if run["state"] == "finished":
            reasons[conditions.UNDER_TRAINED] = conditions.under_trained(frame)
            reasons[conditions.DATA_LIMITED] = conditions.data_limited(frame)
            known = {name: run.get(f"val/{name}", np.nan) for name in AUDITED}
            row = {name: value for name, value in known.items() if value == value}  # NaN: nothing to find
            limits = run_area_limits(results.params.get(run["run_id"], {}))
            other = other_strata(content, limits) if limits else "the area limits are not known"
            failed = [finding.reason for finding in audit_metrics(row, other) if finding.passed is False]
            reasons[conditions.AUDIT_FAILED] = "; ".join(failed)
            logged = {str(key) for key, value in run.items() if "/" in str(key) and value == value}
            reasons[conditions.NOT_LOGGED] = conditions.not_logged(results.design.metrics, logged)
            reasons[conditions.COLLAPSED] = conditions.collapsed(frame)
            if conditions.VARIANCE_KEY not in frame and (arm, seed) in files:
                detections = json.loads(files[arm, seed].read_text())
                reasons[conditions.COLLAPSED] = conditions.collapsed_boxes(detections, sizes)
        rows += [
            {"arm": arm, "seed": seed, "condition": name, "reason": text} for name, text in reasons.items() if text
        ]
    return pd.DataFrame(rows, columns=["arm", "seed", "condition", "reason"])


def class_table(tables: Mapping[str, Sequence[MatchTable]], contrast: Contrast | None, replicates: int) -> pd.DataFrame:
    """AP of every class on both sides of the contrast, means over arms and seeds, and the interval of the difference
    over images; the largest difference first.

    tables:  arm -> what `bootstrap.match` made of the detections of each of its runs
    """
    if contrast is None or not {*contrast.arms, *contrast.against} <= set(tables):
        return pd.DataFrame(columns=CLASS_COLUMNS)
    classes, num_images = tables[contrast.arms[0]][0].classes, len(tables[contrast.arms[0]][0].image_ids)
    weights = image_weights(np.random.default_rng(SEED), num_images, replicates)
    weights = np.concatenate([np.ones((1, num_images), dtype=weights.dtype), weights])  # the first: as they are
    sides = []
    for arms in (contrast.arms, contrast.against):
        by_arm = [np.mean([class_ap(one, weights) for one in tables[arm]], axis=0) for arm in arms]
        sides.append(np.mean(by_arm, axis=0))
    difference = sides[0] - sides[1]  # (1 + B, K)
    rows = []
    for k, name in enumerate(classes):
        drawn = difference[1:, k][~np.isnan(difference[1:, k])]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
        rows.append((name, sides[0][0, k], sides[1][0, k], difference[0, k], low, high))
    frame = pd.DataFrame(rows, columns=CLASS_COLUMNS).dropna(subset=["difference"])
    return frame.sort_values("difference", key=lambda d: -d.abs(), kind="stable").reset_index(drop=True)


def _records(store: Store, runs: pd.DataFrame, metrics: Iterable[Metric]) -> Records:
    """Histories of the design's metrics and of those that conditions and the report's curves need, and of no others."""
    needed = {*(metric.column for metric in metrics), *LOSSES, *RATES, *CLIPPING, *MATCHING, *conditions.METRICS}
    keys = [key for key in map(str, runs) if key in needed or key.startswith(ENTROPY)]
    return as_records({key: load_history(store, runs["run_id"].tolist(), key) for key in keys}, runs)


def _predictions(store: Store, results: AblationResults, notes: list[str]) -> dict[str, list[tuple[int, Path]]]:
    """arm -> (seed, file) of its finished runs; an arm without any is left out and noted."""
    found, missing = {}, []
    for arm in results.design.arms:
        runs = results.finished[results.finished["arm"] == arm]
        seeds, run_ids = runs["seed"].tolist(), runs["run_id"].tolist()
        paths = [(seed, load_predictions(store, run_id)) for seed, run_id in zip(seeds, run_ids, strict=True)]
        missing += [f"{arm}, seed {seed}" for seed, path in paths if path is None]
        if kept := [(seed, path) for seed, path in paths if path]:
            found[arm] = kept
    if missing:
        notes.append(f"No predictions were stored by {'; '.join(missing)}.")
    return found


def _content(path: Path | None, notes: list[str]) -> Content:
    """The validation annotations; without an image where they were not stored or are damaged, which is noted."""
    lost = "there are no intervals over images and no pictures."
    if path is None:
        notes.append(f"The validation annotations were not stored: {lost}")
        return NO_IMAGES
    try:
        content: Content = load(path)
        read_truth(content)
    except (ValueError, OSError) as error:
        notes.append(f"{path.name} cannot be used, and {lost} {error}")
        return NO_IMAGES
    return content


def _read_detections(
    content: Content, predictions: Mapping[str, Sequence[tuple[int, Path]]], notes: list[str]
) -> tuple[dict[str, list[tuple[int, Path]]], dict[tuple[str, int], matching.Detections]]:
    """The predictions that can be read, and by arm and seed what they hold; damaged ones are noted."""
    kept: dict[str, list[tuple[int, Path]]] = {}
    found: dict[tuple[str, int], matching.Detections] = {}
    for arm, rows in predictions.items():
        for seed, path in rows:
            try:
                found[arm, seed] = read_strictly(content, load(path))
            except (ValueError, OSError) as error:
                notes.append(f"{path.name} of {arm}, seed {seed}, is left out: {error}")
                continue
            kept.setdefault(arm, []).append((seed, path))
    return kept, found


def _tables(
    results: AblationResults,
    detections: Mapping[tuple[str, int], matching.Detections],
    metrics: Iterable[Metric],
    notes: list[str],
) -> dict[str, dict[str, list[MatchTable]]]:
    """metric's key -> arm -> the match table of each of its runs, at the area limits of the run."""
    limits = {
        (run["arm"], run["seed"]): run_area_limits(results.params.get(run["run_id"], {})) or COCO_AREA_LIMITS
        for run in results.runs.to_dict("records")
    }
    tables: dict[str, dict[str, list[MatchTable]]] = {}
    for metric in sorted(metrics, key=lambda metric: metric.key):
        if metric.precision is None:
            continue
        try:
            for (arm, seed), found in detections.items():
                table = tabulate(found, metric.precision, limits[arm, seed])
                tables.setdefault(metric.key, {}).setdefault(arm, []).append(table)
        except ValueError as error:  # of a class that there is not
            notes.append(f"{metric.key} has no intervals over images: {error}.")
    return tables


def run_area_limits(params: Mapping[str, str]) -> tuple[float, float] | None:
    """Square pixels that part small, medium and large objects, as a run's settings record them; None if they do not."""
    text = params.get("evaluation.area_limits", "")
    limits = [float(x) for x in text.strip("[]()").split(",") if x.strip()]
    return (limits[0], limits[1]) if len(limits) == 2 else None


def area_limits(results: AblationResults) -> tuple[float, float]:
    """Area limits of the ablation's runs; COCO's if no run records its own."""
    known = (run_area_limits(params) for params in results.params.values())
    return next((limits for limits in known if limits), COCO_AREA_LIMITS)


def _effects(results: AblationResults, notes: list[str]) -> dict[str, pd.DataFrame]:
    """metric's key -> effects and interactions, if the design is a factorial of two factors or more."""
    design, done = results.design, results.finished
    found: dict[str, pd.DataFrame] = {}
    if design.design != "factorial" or len(design.factors) < 2:
        return found
    for metric in design.metrics:
        if metric.column not in done:
            continue
        try:
            found[metric.key] = factorial_effects(done, design.arms, design.factors, metric.column)
        except ValueError as error:
            notes.append(f"Effects and interactions cannot be computed: {error}.")
    return found


def _scenes(
    results: AblationResults,
    annotations: Path | None,
    predictions: Mapping[str, Sequence[tuple[int, Path]]],
    contrast: Contrast | None,
    notes: list[str],
) -> list[Scene]:
    """Pictures of the primary contrast's first two arms, by the first seed that both have."""
    arms = contrast.pairs[0] if contrast else tuple(predictions)[:1]
    if annotations is None or not arms or not set(arms) <= set(predictions):
        notes.append("There are no detections to show: an arm of the primary contrast has no stored predictions.")
        return []
    files = [dict(predictions[arm]) for arm in arms]
    seed = min(set.intersection(*map(set, files)), default=-1)
    chosen = {arm: rows.get(seed, next(iter(rows.values()))) for arm, rows in zip(arms, files, strict=True)}
    return scenes(annotations, chosen, image_folder(results))


def image_folder(results: AblationResults) -> Path | None:
    """Folder of the validation images, as the design or else the runs' settings record it."""
    if results.design.images:
        return Path(results.design.images)
    for params in results.params.values():
        if {"data.root", "data.val_images"} <= params.keys():
            return Path(params["data.root"]) / params["data.val_images"]
    return None
