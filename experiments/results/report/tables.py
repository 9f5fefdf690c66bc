"""Results as frames: raw ones (AP in 0..1) for CSV, and ones of texts (AP times 100) for people."""

import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from experiments.results.audit import audit_row
from experiments.results.effects import half_width_factor
from experiments.results.reading.ablations import AblationResults
from experiments.results.verdicts import UNKNOWN, Verdict, points, probability, seed_difference
from experiments.schema.contrasts import Contrast

METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL")

# COCO val2017, ResNet-50, full schedules: another setting, for orientation only
REFERENCES = pd.DataFrame(
    [
        ("DETR (official), 500 epochs", 0.420, 0.624, 0.442, 0.205, 0.458, 0.611),
        ("DETR, abbreviated schedule, 100 epochs", 0.1667, 0.3082, 0.1603, 0.01186, 0.0748, 0.2429),
        ("DETR, 50 epochs", 0.348, None, None, 0.139, 0.373, 0.544),
    ],
    columns=["arm", *METRICS],
)
NUMERIC = re.compile(r"[+−<]? ?\d.*|–")  # a cell that reads as a number, an interval or the absence of one
REFERENCE_NOTE = "another setting: COCO val2017, ResNet-50, full schedule"


def arm_table(results: AblationResults, replicates: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row an arm, in the design's order.

    Columns: arm; N, the finished runs; planned; for AP, AP50, AP75, APS, APM, APL (0..1) and val_loss the mean and,
    with the suffix "_sd", the standard deviation over seeds (NaN below two); AP_seeds_low and _high, the 95 % t
    interval of the mean; AP_images_low and _high, the percentile interval over `replicates` of the images; steps,
    clip_fraction and minutes (means); note, which names what failed.
    """
    rows = []
    for arm in results.design["arms"]:
        runs = results.runs[results.runs["arm"] == arm]
        done = runs[runs["state"] == "finished"]
        row = {"arm": arm, "N": len(done), "planned": len(results.design["seeds"])}
        for name, metric in [*((m, f"val/{m}") for m in METRICS), ("val_loss", "val/loss")]:
            values = done[metric].dropna() if metric in done else pd.Series(dtype=float)
            row |= {name: values.mean(), f"{name}_sd": values.std()}
        half = half_width_factor(len(done)) * row["AP_sd"]
        row |= {"AP_seeds_low": row["AP"] - half, "AP_seeds_high": row["AP"] + half}
        drawn = replicates[arm].dropna() if replicates is not None and arm in replicates else pd.Series(dtype=float)
        row |= {"AP_images_low": drawn.quantile(0.025), "AP_images_high": drawn.quantile(0.975)}
        row["steps"] = _mean(done, "progress/step")
        row["clip_fraction"] = _mean(done, "train/clip_fraction")
        row["minutes"] = _mean(done, "progress/seconds") / 60
        states = runs.loc[runs["state"] != "finished", "state"].value_counts()
        row["note"] = ", ".join(f"{n} {state}" for state, n in states.items())
        rows.append(row)
    return pd.DataFrame(rows)


def display_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: AP times 100, mean ± SD over seeds, a dash where there is no figure."""
    shown = pd.DataFrame({"arm": table["arm"], "seeds": table["N"].astype(str) + "/" + table["planned"].astype(str)})
    for name in METRICS:
        shown[name] = [_mean_sd(m, sd, 100, 1) for m, sd in zip(table[name], table[f"{name}_sd"], strict=True)]
    shown["val loss"] = [_mean_sd(m, sd, 1, 2) for m, sd in zip(table["val_loss"], table["val_loss_sd"], strict=True)]
    shown["steps"] = [_mean_sd(v, None, 1, 0) for v in table["steps"]]
    shown["clipped"] = [_mean_sd(v, None, 100, 0) + (" %" if pd.notna(v) else "") for v in table["clip_fraction"]]
    shown["minutes"] = [_mean_sd(v, None, 1, 1) for v in table["minutes"]]
    shown["note"] = table["note"]
    return shown


def terminal_table(table: pd.DataFrame) -> pd.DataFrame:
    """What fits on a terminal of 80 columns: AP as mean ± SD, the other figures as means."""
    shown = display_table(table)
    for name in METRICS[1:]:
        shown[name] = [_mean_sd(value, None, 100, 1) for value in table[name]]
    shown["arm"] = shown["arm"].str.replace(",", ", ")  # where a long name may be broken
    empty = [] if shown["note"].any() else ["note"]
    shown = shown.drop(columns=["val loss", "minutes", "steps", *empty])
    return shown.rename(columns={"seeds": "N", "clipped": "clip"})


def interval_table(table: pd.DataFrame) -> pd.DataFrame:
    """AP with its two intervals, apart, as people read them."""
    return pd.DataFrame(
        {
            "arm": table["arm"],
            "seeds": table["N"].astype(str) + "/" + table["planned"].astype(str),
            "AP": [_mean_sd(value, None, 100, 1) for value in table["AP"]],
            "SD over seeds": [_mean_sd(value, None, 100, 2) for value in table["AP_sd"]],
            "interval over seeds": _ranges(table, "AP_seeds", signed=False),
            "interval over images": _ranges(table, "AP_images", signed=False),
        }
    )


def with_differences(table: pd.DataFrame, results: AblationResults) -> pd.DataFrame:
    """`arm_table` with every arm's AP minus the baseline's: difference, difference_low and _high (95 % t interval over
    same-seed pairs), pairs. NaN and 0 for the baseline itself, and where no seed has finished in both.
    """
    baseline, done, rows = results.design["baseline"], results.finished, []
    for arm in table["arm"]:
        found = UNKNOWN if arm == baseline else seed_difference(done, Contrast(arm, "", ((arm, baseline),)))
        rows.append((found.estimate, found.low, found.high, found.n))
    columns = ["difference", "difference_low", "difference_high", "pairs"]
    return table.assign(**pd.DataFrame(rows, columns=columns, index=table.index))


def display_overview(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """What a page shows first: every arm with its intervals and its difference to the baseline, and below them the
    published results, which are marked as another setting.

    table:  of `with_differences`
    """
    shown = display_table(table)
    differences = [
        "baseline" if row.arm == baseline else f"{points(row.difference)} ({row.pairs})" if row.pairs else "–"
        for row in table.itertuples()
    ]
    new = {
        "interval over seeds": _ranges(table, "AP_seeds", signed=False),
        "interval over images": _ranges(table, "AP_images", signed=False),
        "difference (seeds)": differences,
        "its interval": _ranges(table, "difference"),
    }
    for position, (name, values) in enumerate(new.items(), shown.columns.get_loc("AP") + 1):
        shown.insert(position, name, values)
    published = reference_table()
    faults = published.pop("metric audit").replace("passed", "")
    published["note"] += [f"; metric audit {fault}" if fault else "" for fault in faults]
    return pd.concat([shown, published], ignore_index=True).fillna("")


def reference_table() -> pd.DataFrame:
    """The published results in the display's form; a row whose figures cannot stand together says why."""
    shown = REFERENCES[["arm"]].copy()
    for name in METRICS:
        shown[name] = [_mean_sd(value, None, 100, 1) for value in REFERENCES[name]]
    faults = [audit_row(row.drop("arm").astype(float), is_coco=True) for _, row in REFERENCES.iterrows()]
    shown["metric audit"] = ["failed: " + "; ".join(row) if row else "passed" for row in faults]
    return shown.assign(note=REFERENCE_NOTE)


def contrast_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a contrast, raw: differences in 0..1, intervals over seeds and over images, p, N and the reasons."""
    columns = ["contrast", "role", "verdict", "difference", "seeds_low", "seeds_high", "sd", "n", "planned", "p_value"]
    rows = [
        (v.contrast.label, v.contrast.role, v.word, v.seeds.estimate, v.seeds.low, v.seeds.high,
         v.seeds.se * v.seeds.n**0.5, v.seeds.n,
         v.planned, v.p_value, v.images.estimate, v.images.low, v.images.high, ", ".join(v.contrast.changes),
         "; ".join(v.reasons))
        for v in verdicts
    ]  # fmt: skip
    columns += ["images_difference", "images_low", "images_high", "changes", "reasons"]
    return pd.DataFrame(rows, columns=columns)


def display_contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """The contrasts as people read them, in AP points."""
    return pd.DataFrame(
        {
            "contrast": table["contrast"],
            "role": table["role"],
            "verdict": table["verdict"],
            "difference": [points(value) if value == value else "–" for value in table["difference"]],
            "interval over seeds": _ranges(table, "seeds"),
            "interval over images": _ranges(table, "images"),
            "seeds": table["n"].astype(str) + "/" + table["planned"].astype(str),
            "p": [probability(value) if value == value else "–" for value in table["p_value"]],
            "changes": table["changes"].replace("", "–"),
        }
    )


def display_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """Main effects and interactions in AP points; a main effect names its level."""
    named = [
        f"{row.effect}: {row.level} against {row.baseline}" if row.kind == "main" else row.effect
        for row in effects.itertuples()
    ]
    return pd.DataFrame(
        {
            "effect": named,
            "kind": effects["kind"],
            "estimate": [points(value) for value in effects["estimate"]],
            "interval over seeds": _ranges(effects, ""),
            "runs": effects["n"].astype(str),
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


def _ranges(table: pd.DataFrame, prefix: str, signed: bool = True) -> list[str]:
    stem = f"{prefix}_" if prefix else ""
    show = points if signed else lambda value: f"{100 * value:.1f}".replace("-", "−")
    pairs: Iterable[tuple[float, float]] = zip(table[f"{stem}low"], table[f"{stem}high"], strict=True)
    return [f"{show(low)} to {show(high)}" if low == low else "–" for low, high in pairs]
