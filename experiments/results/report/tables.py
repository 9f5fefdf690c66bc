"""Results as frames: raw ones in stored units (AP: 0..1) for CSV, and ones of texts in shown units for people."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from detr.audit import audit_metrics
from experiments.results.effects import UNKNOWN
from experiments.results.image_intervals import ImageSamples, image_ap
from experiments.results.reading.ablations import AblationResults
from experiments.results.verdicts import Verdict, probability, seed_difference, seed_interval
from experiments.schema import names
from experiments.schema.contrasts import Contrast
from experiments.schema.design import Design
from experiments.schema.metrics import PRECISION, Metric

OVERVIEW = (*(Metric(f"val/{name}") for name in PRECISION), Metric("val/loss", "lower"))  # of every arm
NUMERIC = re.compile(r"[+−<]? ?\d.*|–")  # a cell that reads as a number, an interval or the absence of one
REFERENCE_NOTE = "another setting: COCO val2017, ResNet-50, full schedule"


def shown_metrics(design: Design) -> list[Metric]:
    """Metrics of the table of arms: those of the design, then the others of OVERVIEW."""
    own = {metric.key for metric in design.metrics}
    return [*design.metrics, *(metric for metric in OVERVIEW if metric.key not in own)]


def column(metric: Metric) -> str:
    """Name of a metric's column in raw tables: "APS", "val_loss"."""
    return metric.label.replace(" ", "_")


def arm_table(results: AblationResults, images: Mapping[str, ImageSamples] | None = None) -> pd.DataFrame:
    """One row an arm, in the design's order.

    Columns: arm; N, the finished runs; planned; for each of `shown_metrics` the mean and, with the suffix "_sd", the
    standard deviation over seeds (NaN below two); for those of the design also _seeds_low and _high, the 95 % t
    interval of the mean, and _images, _images_low and _high, the AP corrected for its bias with its interval over
    images, and _bias (`image_intervals.image_ap`); steps, clip_fraction and minutes (means); note, which names what
    failed.

    images:  metric's key -> the arms' AP on samples of the images; metrics and arms may be missing
    """
    rows = []
    for arm in results.design.arms:
        runs = results.runs[results.runs["arm"] == arm]
        done = runs[runs["state"] == "finished"]
        row: dict[str, object] = {"arm": arm, "N": len(done), "planned": len(results.design.seeds)}
        for metric in shown_metrics(results.design):
            values = done[metric.column].dropna() if metric.column in done else pd.Series(dtype=float)
            mean, sd, name = values.mean(), values.std(), column(metric)
            row |= {name: mean, f"{name}_sd": sd}
            if metric in results.design.metrics:
                seeds, samples = seed_interval(done, {arm: 1.0}, metric), (images or {}).get(metric.key)
                known = samples is not None and arm in samples.observed
                over_images, bias = image_ap(samples, arm) if samples and known else (UNKNOWN, float("nan"))
                row |= {f"{name}_seeds_low": seeds.low, f"{name}_seeds_high": seeds.high, f"{name}_bias": bias}
                row |= {f"{name}_images": over_images.estimate}
                row |= {f"{name}_images_low": over_images.low, f"{name}_images_high": over_images.high}
        row["steps"] = _mean(done, names.STEP)
        row["clip_fraction"] = _mean(done, "train/clip_fraction")
        row["minutes"] = _mean(done, names.SECONDS) / 60
        states = runs.loc[runs["state"] != "finished", "state"].value_counts()
        row["note"] = ", ".join(f"{n} {state}" for state, n in states.items())
        rows.append(row)
    return pd.DataFrame(rows)


def display_table(table: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The table as people read it: mean ± SD over seeds in shown units, a dash if there is no figure."""
    shown = pd.DataFrame({"arm": table["arm"], "seeds": table["N"].astype(str) + "/" + table["planned"].astype(str)})
    for metric in shown_metrics(design):
        pairs = zip(table[column(metric)], table[f"{column(metric)}_sd"], strict=True)
        shown[metric.label] = [_mean_sd(mean, sd, metric.scale, metric.digits) for mean, sd in pairs]
    shown["steps"] = [_mean_sd(v, None, 1, 0) for v in table["steps"]]
    shown["clipped"] = [_mean_sd(v, None, 100, 0) + (" %" if pd.notna(v) else "") for v in table["clip_fraction"]]
    shown["minutes"] = [_mean_sd(v, None, 1, 1) for v in table["minutes"]]
    shown["note"] = table["note"]
    return shown


def terminal_table(table: pd.DataFrame, design: Design) -> pd.DataFrame:
    """Columns that fit on a terminal of 80: the design's metrics as mean ± SD, the other AP figures as means."""
    shown, own = display_table(table, design), {metric.label for metric in design.metrics}
    for metric in OVERVIEW:
        if metric.label not in own:
            shown[metric.label] = [_mean_sd(v, None, metric.scale, metric.digits) for v in table[column(metric)]]
    shown["arm"] = shown["arm"].str.replace(",", ", ")  # where a long name may be broken
    empty = [] if shown["note"].any() else ["note"]
    shown = shown.drop(columns=["minutes", "steps", *({"val loss"} - own), *empty])
    return shown.rename(columns={"seeds": "N", "clipped": "clip"})


def interval_table(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """One of the design's metrics with its two intervals, apart, as people read them."""
    name = column(metric)
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "seeds": table["N"].astype(str) + "/" + table["planned"].astype(str),
            metric.label: [_mean_sd(value, None, metric.scale, metric.digits) for value in table[name]],
            "SD over seeds": [_mean_sd(value, None, metric.scale, metric.digits + 1) for value in table[f"{name}_sd"]],
            "interval over seeds": _ranges(table, f"{name}_seeds", metric, signed=False),
            "interval over images": _ranges(table, f"{name}_images", metric, signed=False),
            "bias": [_or_dash(value, metric.difference) for value in table[f"{name}_bias"]],
        }
    )


def with_differences(table: pd.DataFrame, results: AblationResults) -> pd.DataFrame:
    """`arm_table` with every arm's first metric minus the baseline's: difference, difference_low and _high (95 % t
    interval), pairs, the number of seeds. NaN and 0 for the baseline itself, and if no seed has finished in both.
    """
    baseline, metric, rows = results.design.baseline, results.design.metric, []
    for arm in table["arm"]:
        contrast = Contrast(arm, "", ((arm, baseline),))
        found = UNKNOWN if arm == baseline else seed_difference(results.finished, contrast, metric)
        rows.append((found.estimate, found.low, found.high, found.n))
    columns = ["difference", "difference_low", "difference_high", "pairs"]
    return table.assign(**pd.DataFrame(rows, columns=columns, index=table.index))


def display_overview(table: pd.DataFrame, design: Design) -> pd.DataFrame:
    """The first table of a page: every arm with the intervals of its first metric and the difference to the baseline,
    and below them the published results, which are marked as another setting.

    table:  of `with_differences`
    """
    shown, metric = display_table(table, design), design.metric
    differences = [
        "baseline" if arm == design.baseline else f"{metric.difference(value)} ({pairs})" if pairs else "–"
        for arm, value, pairs in zip(table["arm"], table["difference"], table["pairs"], strict=True)
    ]
    new = {
        "interval over seeds": _ranges(table, f"{column(metric)}_seeds", metric, signed=False),
        "interval over images": _ranges(table, f"{column(metric)}_images", metric, signed=False),
        "difference (seeds)": differences,
        "its interval": _ranges(table, "difference", metric),
    }
    for position, (name, values) in enumerate(new.items(), list(shown).index(metric.label) + 1):
        shown.insert(position, name, values)
    published = reference_table()
    published["note"] += "; " + published.pop("source")
    faults = published.pop("metric audit").replace("passed", "")
    published["note"] += [f"; metric audit {fault}" if fault else "" for fault in faults]
    return pd.concat([shown, published], ignore_index=True).fillna("")


@cache
def references() -> pd.DataFrame:
    """Published results on COCO val2017 with a ResNet-50 and full schedules: arm, AP, ..., APL (0..1), source. They are
    another setting than any ablation here, for orientation only. Not to be changed.
    """
    return pd.read_csv(Path(__file__).with_name("references.csv"))


def reference_table() -> pd.DataFrame:
    """The published results in the display's form; a row whose figures cannot stand together says why."""
    known = references()
    shown = known[["arm"]].copy()
    for name in PRECISION:
        shown[name] = [_mean_sd(value, None, 100, 1) for value in known[name]]
    rows = [dict(zip(PRECISION, row, strict=True)) for row in known[list(PRECISION)].to_numpy(float).tolist()]
    given = [{name: value for name, value in row.items() if value == value} for row in rows]
    failed = [[finding for finding in audit_metrics(row) if finding.passed is False] for row in given]
    faults = ["; ".join(finding.reason.partition(":")[0] for finding in found) for found in failed]  # in short
    shown["metric audit"] = [f"failed: {fault}" if fault else "passed" for fault in faults]
    return shown.assign(source=known["source"], note=REFERENCE_NOTE)


def contrast_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a contrast and metric, raw: differences in stored units, intervals over seeds and over images, p, N and
    the reasons.
    """
    columns = ["contrast", "role", "metric", "verdict", "difference", "seeds_low", "seeds_high", "se", "df", "n"]
    columns += ["planned", "p_value", "images_difference", "images_low", "images_high", "both_low", "both_high"]
    columns += ["changes", "reasons"]
    rows = [
        (v.contrast.label, v.contrast.role, v.metric.key, v.claim, v.seeds.estimate, v.seeds.low, v.seeds.high,
         v.seeds.se, v.seeds.df, v.seeds.n, v.planned, v.p_value, v.images.estimate, v.images.low, v.images.high,
         v.both.low, v.both.high,
         ", ".join(v.contrast.changes), "; ".join(v.reasons))
        for v in verdicts
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def display_contrasts(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The contrasts as people read them, each in the shown unit of its metric."""
    rows = [
        {
            "contrast": v.contrast.label,
            "role": v.contrast.role,
            "metric": v.metric.label,
            "verdict": v.claim,
            "difference": _or_dash(v.seeds.estimate, v.metric.difference),
            "interval over seeds": _range(v.seeds.low, v.seeds.high, v.metric.difference),
            "interval over images": _range(v.images.low, v.images.high, v.metric.difference),
            "seeds": f"{v.seeds.n}/{v.planned}",
            "p": _or_dash(v.p_value, probability),
            "changes": ", ".join(v.contrast.changes) or "–",
        }
        for v in verdicts
    ]
    return pd.DataFrame(rows)


def display_effects(effects: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Main effects and interactions in the metric's shown unit; a main effect names its level."""
    named = [
        f"{row.effect}: {row.level} against {row.baseline}" if row.kind == "main" else row.effect
        for row in effects.itertuples()
    ]
    return pd.DataFrame(
        {
            "effect": named,
            "kind": effects["kind"],
            "estimate": [metric.difference(value) for value in effects["estimate"]],
            "interval over seeds": _ranges(effects, "", metric),
            "seeds": effects["n"].astype(str),
            "p": [_or_dash(value, probability) for value in effects["p_value"]],
        }
    )


def settings_table(settings: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """The settings in which arms differ: one row a setting, a column an arm."""
    keys = dict.fromkeys(key for row in settings.values() for key in row)
    rows = [{"setting": key} | {arm: str(row.get(key, "–")) for arm, row in settings.items()} for key in keys]
    return pd.DataFrame(rows, columns=None if rows else ["setting", *settings])


def _mean(runs: pd.DataFrame, column: str) -> float:
    return runs[column].mean() if column in runs else float("nan")


def _mean_sd(mean: float | None, sd: float | None, scale: float, digits: int) -> str:
    if mean is None or pd.isna(mean):
        return "–"
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None or pd.isna(sd) else f"{text} ± {scale * sd:.{digits}f}"


def _ranges(table: pd.DataFrame, prefix: str, metric: Metric, signed: bool = True) -> list[str]:
    stem = f"{prefix}_" if prefix else ""
    show = metric.difference if signed else metric.shown
    return [_range(low, high, show) for low, high in zip(table[f"{stem}low"], table[f"{stem}high"], strict=True)]


def _range(low: float, high: float, show: Callable[[float], str]) -> str:
    return f"{show(low)} to {show(high)}" if low == low else "–"


def _or_dash(value: float, show: Callable[[float], str]) -> str:
    return show(value) if value == value else "–"
