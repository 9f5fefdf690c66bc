"""The table of an ablation."""

import pandas as pd

from experiments.results.runs import AblationResults

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


def arm_table(results: AblationResults) -> pd.DataFrame:
    """One row an arm, in the design's order.

    Columns: arm; N, the finished runs; planned; for AP, AP50, AP75, APS, APM, APL (0..1) and val_loss the mean and,
    with the suffix "_sd", the standard deviation over seeds (NaN below two); steps, clip_fraction and minutes (means);
    note, which names what failed.
    """
    rows = []
    for arm in results.design["arms"]:
        runs = results.runs[results.runs["arm"] == arm]
        done = runs[runs["state"] == "finished"]
        row = {"arm": arm, "N": len(done), "planned": len(results.design["seeds"])}
        for name, metric in [*((m, f"val/{m}") for m in METRICS), ("val_loss", "val/loss")]:
            values = done[metric].dropna() if metric in done else pd.Series(dtype=float)
            row |= {name: values.mean(), f"{name}_sd": values.std()}
        row["steps"] = _mean(done, "progress/step")
        row["clip_fraction"] = _mean(done, "train/clip_fraction")
        row["minutes"] = _mean(done, "progress/seconds") / 60
        states = runs.loc[runs["state"] != "finished", "state"].value_counts()
        row["note"] = ", ".join(f"{n} {state}" for state, n in states.items())
        rows.append(row)
    return pd.DataFrame(rows)


def _mean(runs: pd.DataFrame, column: str) -> float:
    return runs[column].mean() if column in runs else float("nan")


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


def reference_table() -> pd.DataFrame:
    """The published results in the display's form."""
    shown = REFERENCES[["arm"]].copy()
    for name in METRICS:
        shown[name] = [_mean_sd(value, None, 100, 1) for value in REFERENCES[name]]
    return shown.assign(note="COCO val2017, ResNet-50, full schedule")


def markdown(results: AblationResults) -> str:
    """The table as a Markdown page with the question, the horizon and the published rows."""
    design = results.design
    joined = pd.concat([display_table(arm_table(results)), reference_table()]).fillna("")
    return "\n".join(
        [
            f"# {design['name']}",
            "",
            design["question"],
            "",
            f"Horizon of every run: {design['horizon']}. Baseline: {design['baseline']}. AP of the last evaluation, "
            "times 100; mean ± standard deviation over seeds.",
            "",
            joined.to_markdown(index=False),
            "",
        ]
    )


def _mean_sd(mean: float | None, sd: float | None, scale: float, digits: int) -> str:
    if mean is None or pd.isna(mean):
        return "–"
    text = f"{scale * mean:.{digits}f}"
    return text if sd is None or pd.isna(sd) else f"{text} ± {scale * sd:.{digits}f}"
