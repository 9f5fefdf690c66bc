"""Draws docs/pictures/diagnostics_formulas.png: examples small enough to check by eye, with the values that detr gives.

.venv/bin/python docs/pictures/diagnostics_formulas.py
"""

from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from detr.diagnostics.formulas import Variance, attention_entropy, duplicates, instability, prediction_variance

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

PICTURE = Path(__file__).with_suffix(".png")
BLUE, RED, GREY = "#0072B2", "#D55E00", "#999999"
SIDE = 8  # tokens of the attention maps


def draw_attention(axis: Axes, sharpness: float, title: str) -> None:
    """A query's weights on 8 x 8 tokens, the last two columns padding."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    mask = x >= SIDE - 2
    logits = -sharpness * ((x - 2.0) ** 2 + (y - 4.0) ** 2)
    weights = logits.masked_fill(mask, -torch.inf).flatten().softmax(0)
    value = attention_entropy(weights.view(1, 1, 1, -1), mask.view(1, -1)).item()
    shown = weights.view(SIDE, SIDE).where(~mask, torch.nan)
    axis.imshow(shown, cmap="Blues", vmin=0, vmax=max(weights.max().item(), 0.05))
    axis.add_patch(Rectangle((SIDE - 2.5, -0.5), 2, SIDE, facecolor="#dddddd", hatch="//", edgecolor="white"))
    axis.set_title(f"{title}\nentropy {value:.2f}")
    axis.set_xticks([])
    axis.set_yticks([])


def draw_matching(axis: Axes) -> None:
    """Three images, eight queries, at two evaluations."""
    before = torch.tensor([[0, -1, -1, 1, -1, -1, -1, -1], [-1, 0, -1, -1, -1, -1, 1, 2], [-1] * 8])
    after = torch.tensor([[0, -1, 1, -1, -1, -1, -1, -1], [-1, 1, -1, -1, -1, -1, 0, 2], [-1] * 8])
    for row in range(3):
        for query in range(8):
            old, new = int(before[row, query]), int(after[row, query])
            text = "·" if old == new == -1 else f"{_name(old)}" if old == new else f"{_name(old)}→{_name(new)}"
            changed = old != new
            axis.text(query, row, text, ha="center", va="center", color=RED if changed else "black", fontsize=11)
    value = instability(before, after).item()
    total = int((before != after).sum())
    title = "Matching at two evaluations: the object of each query"
    axis.set_title(f"{title}\n{total} queries changed in 3 images: instability {value:.2f}")
    axis.set_xticks(range(8), [f"q{i}" for i in range(8)])
    axis.set_yticks(range(3), ["image 1", "image 2", "image 3\n(no object)"])
    axis.set_xlim(-0.6, 7.6)
    axis.set_ylim(2.5, -0.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _name(target: int) -> str:
    return "–" if target < 0 else "ABC"[target]


def draw_duplicates(axis: Axes) -> None:
    """Five detections of which one doubles another."""
    boxes = torch.tensor([[8, 12, 44, 60], [12, 16, 48, 62], [10, 10, 46, 58], [60, 20, 90, 70], [64, 50, 96, 90]])
    scores, labels = torch.tensor([0.95, 0.8, 0.7, 0.9, 0.3]), torch.tensor([0, 0, 1, 0, 0])
    kinds = ["cat 0.95", "cat 0.80: duplicate", "dog 0.70: another class", "cat 0.90", "cat 0.30: below 0.5"]
    colours, styles = [BLUE, RED, "#009E73", BLUE, GREY], ["-", "-", "-", "-", ":"]
    places = [(20, 34), (12, 67), (8, 7), (62, 17), (60, 97)]
    for box, kind, colour, style, place in zip(boxes.tolist(), kinds, colours, styles, places, strict=True):
        corner, width, height = box[:2], box[2] - box[0], box[3] - box[1]
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=2))
        axis.text(*place, kind, color=colour, fontsize=8)
    found, double = duplicates(scores[None], labels[None], boxes[None].float())
    axis.set_title(f"Duplicates: {double} of {found} detections = {double / found:.2f}")
    _image(axis)


def draw_predictions(axis: Axes, spread: float, title: str) -> None:
    """Boxes of two queries for 12 images, over the objects of those images."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.rand(12, 2, generator=generator) * 0.7 + 0.15
    objects = torch.cat([centres, torch.rand(12, 2, generator=generator) * 0.2 + 0.1], dim=1)
    mean = torch.tensor([[0.3, 0.5, 0.25, 0.3], [0.7, 0.5, 0.2, 0.25]])
    boxes = mean + spread * (objects - objects.mean(0))[:, None]  # (12, 2, 4)
    found = prediction_variance(_gather(boxes), _gather(boxes), _gather(objects))["prediction_variance_boxes"]
    for query, colour in ((0, BLUE), (1, RED)):
        for cx, cy, w, h in (100 * boxes[:, query]).tolist():
            corner = cx - w / 2, cy - h / 2
            axis.add_patch(Rectangle(corner, w, h, fill=False, edgecolor=colour, alpha=0.6))
    axis.set_title(f"{title}: variance of boxes {found:.2f}\n(two queries, 12 images)")
    _image(axis)


def _gather(values: Tensor) -> Variance:
    variance = Variance()
    variance.add(values)
    return variance


def _image(axis: Axes) -> None:
    axis.set_xlim(0, 100)
    axis.set_ylim(100, 0)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


def main() -> None:
    """Draw."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    figure, axes = plt.subplot_mosaic(
        "AABBCCMMMMMM;DDDDEEEEFFFF", figsize=(12, 7), layout="tight", height_ratios=(1, 1.8)
    )
    draw_attention(axes["A"], 0.0, "Looks everywhere")
    draw_attention(axes["B"], 0.35, "Looks at a region")
    draw_attention(axes["C"], 3.0, "Looks at one token")
    draw_matching(axes["M"])
    draw_duplicates(axes["D"])
    draw_predictions(axes["E"], 0.7, "Healthy")
    draw_predictions(axes["F"], 0.05, "Collapsed")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
