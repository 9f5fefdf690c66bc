"""Draw the pictures of docs/model.md from the code that they explain: `python docs/pictures/draw.py [FOLDER]`."""

import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse, FancyBboxPatch, Polygon, Rectangle
from torch import Tensor

from detr.boxes import cxcywh_to_xyxy
from detr.config import ModelConfig, ScheduleConfig
from detr.data.shapes import CLASSES
from detr.matcher import HungarianMatcher
from detr.models.memory import Memory
from detr.models.position_encoding import SinePositionEmbedding
from detr.models.queries import Queries
from detr.models.transformer import Encoder
from detr.schedule import lr_factor

HEIGHT, WIDTH, D = 25, 34, 256  # feature map of an image of 800 x 1066 pixels, width of the transformer
ORANGE, BLUE, GREEN, GREY = "#D55E00", "#0072B2", "#009E73", "#666666"
PAPER = "#F2F2F2"


def position() -> Figure:
    """Waves of the sine embedding, and its similarity map around one position, without and with padding."""
    figure, (waves, whole, padded) = plt.subplots(1, 3, figsize=(12, 3.3), width_ratios=(1.2, 1, 1))
    embed = SinePositionEmbedding(D)
    free = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
    padding = free.clone()
    padding[:, 16:] = True
    padding[:, :, 22:] = True
    embedding = embed(free)[0]  # (H, W, d)

    for pair, colour in ((0, BLUE), (8, GREEN), (16, ORANGE), (40, GREY)):
        sine, cosine = embedding[12, :, D // 2 + 2 * pair : D // 2 + 2 * pair + 2].unbind(-1)
        waves.plot(sine, color=colour, label=f"x pair {pair}")
        waves.plot(cosine, color=colour, linestyle="--")
    waves.legend(fontsize=8, loc="lower left")
    waves.set(title="sine (solid) and cosine of 4 of the 64 pairs", xlabel="column", ylim=(-1.1, 1.1))

    _similarity(whole, embedding, (12, 10), "similarity to the position +")
    shown = _similarity(padded, embed(padding)[0], (8, 6), "the same in a padded image")
    shown.set_data(np.ma.masked_array(shown.get_array(), mask=padding[0]))
    padded.set_facecolor(PAPER)
    padded.text(28, 20, "padding:\nmasked", ha="center", va="center", fontsize=9, color=GREY)
    return figure


def _similarity(axes: Axes, embedding: Tensor, place: tuple[int, int], title: str) -> AxesImage:
    cosine = torch.cosine_similarity(embedding, embedding[place], dim=-1).numpy()
    image = axes.imshow(cosine, cmap="viridis", vmin=0.75, vmax=1, interpolation="nearest")
    axes.plot(place[1], place[0], "+", color=ORANGE, markersize=12, markeredgewidth=2)
    axes.set(title=title, xlabel="column", ylabel="row")
    axes.figure.colorbar(image, ax=axes, shrink=0.75, label="cosine")
    return image


def norms() -> Figure:
    """Post-LN and pre-LN encoder layers as block diagrams."""
    figure, (post, pre) = plt.subplots(1, 2, figsize=(8.5, 5.2))
    _stack(post, ["attention", "+", "norm", "feed-forward", "+", "norm"])
    post.set_title("post-LN (the paper): every layer's sum is normalised")
    _stack(pre, ["norm", "attention", "+", "norm", "feed-forward", "+"])
    pre.set_title("pre-LN: the sum passes unchanged, one norm at the end")
    _block(pre, 6.4, "norm")
    pre.text(0.7, 6.4, "once, after\nthe last layer", fontsize=8, va="center", color=GREY)
    pre.plot([0.12, 0.9], [5.75, 5.75], linestyle=":", color=GREY)
    return figure


def _stack(axes: Axes, blocks: list[str]) -> None:
    """One encoder layer from bottom to top; each residual leaves below its sublayer and joins at the sum."""
    leaves = -0.6  # height at which the present residual leaves
    arrow = {"arrowstyle": "-|>", "color": "black"}
    axes.annotate("", (0.5, 7.3), (0.5, -1.1), arrowprops=arrow, zorder=0)
    for y, block in enumerate(blocks):
        if block == "+":
            axes.plot([0.5, 0.75, 0.75], [leaves, leaves, y], color="black", linewidth=1, zorder=0)
            axes.annotate("", (0.53, y), (0.755, y), arrowprops=arrow)
            axes.plot(0.5, y, "o", markersize=17, markerfacecolor="white", markeredgecolor="black")
            axes.text(0.5, y, "+", ha="center", va="center_baseline", fontsize=13)
            leaves = y + (1.5 if blocks[y + 1 : y + 3] == ["norm", "feed-forward"] and blocks[0] != "norm" else 0.5)
        else:
            _block(axes, y, block)
        if block == "attention":
            axes.text(0.12, y, "position:\nto q and k,\nnot to v", ha="center", va="center", fontsize=8, color=GREY)
            axes.annotate("", (0.31, y), (0.21, y), arrowprops={"arrowstyle": "->", "color": GREY})
    axes.set(xlim=(0, 1), ylim=(-1.2, 7.4))
    axes.axis("off")


def _block(axes: Axes, y: float, text: str) -> None:
    colour = {"attention": BLUE, "feed-forward": GREEN, "norm": ORANGE}[text]
    box = FancyBboxPatch((0.34, y - 0.28), 0.32, 0.56, boxstyle="round,pad=0.02", facecolor=colour, edgecolor="none")
    axes.add_patch(box)
    axes.text(0.5, y, text, ha="center", va="center", color="white", fontsize=10)


def matching() -> Figure:
    """A scene with the boxes of six queries, and the costs from which the matcher takes the cheapest assignment."""
    labels = torch.tensor([0, 1, 2])  # ellipse, rectangle, triangle
    target = {
        "labels": labels,
        "boxes": torch.tensor([[0.3, 0.28, 0.34, 0.3], [0.7, 0.7, 0.4, 0.3], [0.25, 0.75, 0.2, 0.2]]),
    }
    outputs = _predictions(target)
    matcher = HungarianMatcher()
    queries, objects = matcher(outputs, [target])[0]
    pairs = dict(zip(queries.tolist(), objects.tolist(), strict=True))
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    cost = matcher.cost(logits[None], boxes[None], labels[None], target["boxes"][None])[0, 0]  # (Q, n)

    figure, (scene, matrix) = plt.subplots(1, 2, figsize=(10, 4.4))
    _draw_objects(scene, target["boxes"])
    for query, (left, top, right, bottom) in enumerate(cxcywh_to_xyxy(boxes[0]).tolist()):
        colour, line = (ORANGE, "-") if query in pairs else (GREY, ":")
        size = {"width": right - left, "height": bottom - top}
        scene.add_patch(Rectangle((left, top), **size, fill=False, edgecolor=colour, linestyle=line, linewidth=2))
        label = {"boxstyle": "square,pad=0.2", "facecolor": colour, "edgecolor": "none"}
        scene.text(left, top, str(query), color="white", va="bottom", fontsize=9, bbox=label)
    scene.set_title("objects a, b, c and the boxes of six queries")

    matrix.imshow(cost.numpy(), cmap="Blues_r", aspect="auto", vmin=float(cost.min()), vmax=float(cost.max()) * 1.8)
    for (query, obj), value in np.ndenumerate(cost.numpy()):
        bright = value > 0.3 * float(cost.max())
        matrix.text(obj, query, f"{value:.1f}", ha="center", va="center", color="black" if bright else "white")
    for query, obj in pairs.items():
        matrix.add_patch(Rectangle((obj - 0.47, query - 0.45), 0.94, 0.9, fill=False, edgecolor=ORANGE, linewidth=3))
    names = [f"{letter}: {name}" for letter, name in zip("abc", CLASSES, strict=True)]
    matrix.set(xticks=range(3), xticklabels=names, yticks=range(len(cost)), ylabel="query")
    matrix.set_title("cost = 5 L1 - probability - 2 GIoU: the least total is marked")
    return figure


def _draw_objects(axes: Axes, boxes: Tensor) -> None:
    """An ellipse, a rectangle and a triangle in their boxes (3, 4) cxcywh in 0..1."""
    ellipse, rectangle, triangle = boxes.tolist()
    axes.add_patch(Ellipse(ellipse[:2], *ellipse[2:], facecolor="#9ecae1"))
    axes.add_patch(
        Rectangle(
            (rectangle[0] - rectangle[2] / 2, rectangle[1] - rectangle[3] / 2), *rectangle[2:], facecolor="#a1d99b"
        )
    )
    x, y, w, h = triangle
    axes.add_patch(Polygon([(x - w / 2, y + h / 2), (x + w / 2, y + h / 2), (x, y - h / 2)], facecolor="#dadaeb"))
    for letter, (x, y, _, _) in zip("abc", boxes.tolist(), strict=True):
        axes.text(x, y, letter, ha="center", va="center", fontsize=14, weight="bold")
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], facecolor=PAPER)


def _predictions(target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Six queries: two at each of a and b, one at c, one at nothing."""
    generator = torch.Generator().manual_seed(4)
    sees = torch.tensor([1, 0, 2, 0, 1, 2])
    boxes = target["boxes"][sees] + 0.035 * torch.randn(6, 4, generator=generator)
    boxes[5] = torch.tensor([0.75, 0.15, 0.24, 0.16])
    logits = torch.randn(6, len(CLASSES) + 1, generator=generator)
    logits[torch.arange(6), target["labels"][sees]] += 1.5
    return {"pred_logits": logits[None], "pred_boxes": boxes[None]}


def schedules() -> Figure:
    """The two learning-rate schedules over their epochs."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    progress = np.linspace(0, 1, 2001)[:-1]
    official, abbreviated = ScheduleConfig(), ScheduleConfig(shape="warmup_cosine", full_epochs=100)
    for schedule, peak, colour, name in (
        (official, 1e-4, BLUE, "official: post-LN, 400 epochs at 1e-4, 100 at 1e-5"),
        (abbreviated, 3e-4, ORANGE, "abbreviated: pre-LN, 5 up to 3e-4, 35 flat, 60 cosine to 3e-6"),
    ):
        rates = [peak * lr_factor(schedule, p) for p in progress]
        axes.plot(progress * schedule.full_epochs, rates, color=colour, linewidth=2, label=name)
    axes.set(yscale="log", xlabel="epoch", ylabel="learning rate", ylim=(2e-6, 2e-3), xlim=(0, 500))
    axes.set_title("the backbone always learns at a tenth of this")
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def weak_spots() -> Figure:
    """The coarse map, early attention, the encoder's cost, and the length of training."""
    figure, panels = plt.subplots(1, 4, figsize=(15, 3.7))
    _draw_map(panels[0])
    _draw_attention(panels[1])
    strides = [64, 32, 16, 8]
    tokens = [math.ceil(800 / s) * math.ceil(1066 / s) for s in strides]
    panels[2].plot(range(4), [count**2 for count in tokens], "o-", color=BLUE)
    panels[2].plot(1, tokens[1] ** 2, "o", color=ORANGE, markersize=10)
    for i, count in enumerate(tokens):
        panels[2].annotate(f"{count:,} tokens", (i, count**2), (8, -9), textcoords="offset points", fontsize=8)
    panels[2].set(xticks=range(4), xticklabels=strides, xlim=(-0.4, 4.3))
    panels[2].grid(alpha=0.3)
    panels[2].set(
        yscale="log", ylim=(1e4, 3e9), xlabel="stride of the feature map", title="attention weights of a head"
    )
    epochs, points = [50, 150, 300, 500], [34.8, 39.5, 40.6, 42.0]
    panels[3].plot(epochs, points, "o-", color=BLUE)
    for epoch, value in zip(epochs, points, strict=True):
        panels[3].annotate(f"{value}", (epoch, value), (4, -12), textcoords="offset points", fontsize=9)
    panels[3].set(xlabel="epochs of training", xlim=(0, 590), ylim=(33, 44), title="AP on COCO val, ResNet-50")
    panels[3].grid(alpha=0.3)
    return figure


def _draw_map(axes: Axes) -> None:
    """COCO's limits of small and medium objects on the 32 x map of a 480 x 640 image that was resized to 800."""
    scale = 800 / 480
    axes.set_facecolor(PAPER)
    axes.set(xticks=range(0, 385, 32), yticks=range(0, 289, 32), xlim=(0, 384), ylim=(288, 0), aspect="equal")
    axes.grid(color="white", linewidth=2)
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.set_axisbelow(True)
    for x, y, side, name, colour in (
        (20, 30, 16, "16 px", ORANGE),
        (20, 115, 32, "32 px: limit of small", ORANGE),
        (190, 80, 96, "96 px: limit of medium", BLUE),
    ):
        axes.add_patch(Rectangle((x, y), side * scale, side * scale, facecolor=colour, alpha=0.85))
        axes.text(x, y - 6, name, fontsize=8, color=colour)
    axes.set_title("a corner of the 32x feature map")


def _draw_attention(axes: Axes) -> None:
    """Attention of one token in the first encoder layer of a fresh model, averaged over heads."""
    torch.manual_seed(0)
    encoder = Encoder(ModelConfig(pretrained=False, num_encoder_layers=1)).eval()
    layer = encoder.layers[0]
    place = SinePositionEmbedding(D)(torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)).flatten(1, 2)
    tokens = torch.randn(1, HEIGHT * WIDTH, D)  # of unit variance
    with torch.no_grad():
        weights = layer.self_attn.weights(Queries(tokens, place), Memory(tokens, place))[0]  # (heads, T, T)
    entropy = -(weights * weights.log()).sum(-1)
    row, column = 12, 17
    seen = weights[:, row * WIDTH + column].mean(0).reshape(HEIGHT, WIDTH) * HEIGHT * WIDTH
    image = axes.imshow(seen.numpy(), cmap="viridis", vmin=0, interpolation="nearest")
    axes.plot(column, row, "+", color=ORANGE, markersize=12, markeredgewidth=2)
    axes.figure.colorbar(image, ax=axes, shrink=0.6, label="weight x 850")
    axes.set(xticks=[], yticks=[], title="attention of + before training")
    axes.set_xlabel(f"as wide as {entropy.exp().mean():.0f} of {HEIGHT * WIDTH} equal tokens")


PICTURES = (position, norms, matching, schedules, weak_spots)


def main(folder: Path) -> None:
    """Write all pictures."""
    torch.set_num_threads(1)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "figure.constrained_layout.use": True})
    for draw in PICTURES:
        figure = draw()
        figure.savefig(folder / f"{draw.__name__}.png", dpi=100, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
