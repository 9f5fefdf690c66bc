"""Draws docs/pictures/diagnostics.png: the signals of three short trainings of the built-in set, one of them ill.

.venv/bin/python docs/pictures/diagnostics.py                     train and draw (6 min on one core)
.venv/bin/python docs/pictures/diagnostics.py --records FILE      keep the records there, or draw again from them
"""

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib as mpl

from detr.config import RunConfig
from detr.train import train
from experiments.definition.compose import compose, run_config

mpl.use("Agg")
from matplotlib import pyplot as plt

PICTURE = Path(__file__).with_suffix(".png")
LAYERS = 2
STEPS = 2000
ARMS = {
    "abbreviated recipe: pre-LN, lr 3e-4": (["schedule=abbreviated", "model.norm=pre", "optim.lr=3e-4"], "#0072B2"),
    "official recipe: post-LN, lr 1e-4": (["schedule=official", "model.norm=post", "optim.lr=1e-4"], "#E69F00"),
    "abbreviated recipe, lr 1e-2": (["schedule=abbreviated", "model.norm=pre", "optim.lr=1e-2"], "#D55E00"),
}
PANELS = [  # metric, title, limits
    ("val/AP50", "AP50", (0, None)),
    ("diagnostics/grad_norm_log10_median", "log10 of gradient norm: median, 95th percentile", None),
    ("diagnostics/update_ratio_main", "update to weight ratio, main group", None),
    ("diagnostics/attention_entropy_1", "attention entropy, first (dotted) and last layer", (0, 1.05)),
    ("diagnostics/matching_instability", "matching instability (queries per image)", (0, None)),
    ("diagnostics/layer_instability_0", "instability between decoder layers 0 and 1", (0, None)),
    ("diagnostics/query_use", "query use", (0, 1.05)),
    ("diagnostics/no_object_matched", "no-object probability: matched (dotted), unmatched", (0, 1.05)),
    ("diagnostics/duplicates", "duplicates (share of detections)", (0, 1)),
    ("diagnostics/prediction_variance_boxes", "prediction variance of boxes", (0, None)),
    ("diagnostics/prediction_variance_classes", "prediction variance of classes", (0, None)),
    ("diagnostics/AP_layer", "AP of the decoder layers at the end", (0, None)),
]
DOTTED = {  # drawn into the same panel
    "diagnostics/grad_norm_log10_median": "diagnostics/grad_norm_log10_p95",
    "diagnostics/attention_entropy_1": "diagnostics/attention_entropy_0",
    "diagnostics/no_object_matched": "diagnostics/no_object_unmatched",
}


def configuration(root: str, overrides: list[str]) -> RunConfig:
    """One arm: model=small on data=shapes."""
    common = {
        "data.root": root,
        "horizon": f"{STEPS} steps",
        "train.device": "cpu",
        "train.num_threads": 1,
        "train.evaluations": 15,
        "train.update_ratio_steps": STEPS // 30,
    }
    return run_config(compose([*(f"{key}={value}" for key, value in common.items()), *overrides]), seed=0)


def run_arms() -> dict[str, list[dict]]:
    """Arm -> one dict of step and metrics a record."""
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for name, (overrides, _) in ARMS.items():
            found[name] = [{"step": r.step, **r.metrics} for r in train(configuration(root, overrides))]
    return found


def draw(arms: dict[str, list[dict]]) -> None:
    """Twelve panels, a colour an arm."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(4, 3, figsize=(11, 10), layout="constrained")
    for axis, (metric, title, limits) in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title, fontsize=9)
        for name, records in arms.items():
            colour = ARMS[name][-1]
            if metric == "diagnostics/AP_layer":
                values = [records[-1].get(f"{metric}_{i}", 0) for i in range(LAYERS)]
                axis.plot(range(LAYERS), values, color=colour, marker="o")
                axis.set_xticks(range(LAYERS))
                continue
            for key, style in ((metric, "-"), (DOTTED.get(metric), ":")):
                if metric == "diagnostics/no_object_matched":
                    style = {"-": ":", ":": "-"}[style]
                rows = [(r["step"], r[key]) for r in records if key in r]
                if rows:
                    axis.plot(*zip(*rows, strict=True), color=colour, linestyle=style, label=name)
        if metric == "diagnostics/update_ratio_main":
            axis.set_yscale("log")
        if limits:
            axis.set_ylim(*limits)
    for axis in axes[-1, :2]:
        axis.set_xlabel("optimiser step")
    axes[-1, 2].set_xlabel("decoder layer")
    handles = [plt.Line2D([], [], color=colour, label=name) for name, (_, colour) in ARMS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(PICTURE, dpi=85)


def main() -> None:
    """Train unless the records are there, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="file of the three trainings' records")
    path = parser.parse_args().records
    if path and path.is_file():
        arms = json.loads(path.read_text())
    else:
        arms = run_arms()
        if path:
            path.write_text(json.dumps(arms))
    draw(arms)


if __name__ == "__main__":
    main()
