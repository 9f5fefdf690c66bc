"""An image with its boxes as SVG: objects, hits, false alarms and misses, told apart by colour and by line."""

import html
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.results.detections.matching import GroundTruth, Matched, load, match, read_detections, read_truth
from experiments.results.reading.image_files import embed

THRESHOLDS = (0.75, 0.5, 0.0)
NUM_SCENES = 4
ROWS = 3  # lines by which a caption may stand lower
MAX_SIDE = 640  # pixels of a picture in a report
HIT, FALSE_ALARM, MISS, IGNORED, OBJECT = "hit", "false alarm", "miss", "ignored", "object"
OUTCOMES = (HIT, FALSE_ALARM, MISS)  # what counts
# Okabe and Ito's colours, which the colour-blind can tell apart, and a dash of its own for each
LINES = {
    HIT: ("#56B4E9", "none"),
    FALSE_ALARM: ("#E69F00", "9 5"),
    MISS: ("#F0E442", "3 4"),
    IGNORED: ("#BBBBBB", "1 3"),
    OBJECT: ("#FFFFFF", "none"),
}
STYLE = (
    ".scene rect, .scene path, .scene text { vector-effect: non-scaling-stroke; }"
    ".scene .box, .scene .edge { fill: none; } .scene .edge { stroke: #000b; stroke-width: 4px; }"
    ".scene .box { stroke-width: 2.5px; pointer-events: all; }"
    ".scene .object { stroke-width: 1.25px; }"
    ".scene text { fill: #fff; stroke: #000; stroke-width: 2.5px; paint-order: stroke; font-family: sans-serif; }"
    ".scene .absent { fill: #8884; } .scene .word { fill: currentColor; stroke: none; text-anchor: middle; }"
) + "".join(
    f".scene .{name.replace(' ', '-')} {{ stroke: {colour}; stroke-dasharray: {dash}; }}"
    for name, (colour, dash) in LINES.items()
)


@dataclass(frozen=True)
class Shape:
    """A box to draw."""

    box: tuple[float, float, float, float]  # x, y, width, height in pixels of the image
    outcome: str  # of LINES
    name: str  # its class
    score: float | None = None  # of a detection
    has_caption: bool = True  # it can be read without pointing at the box

    @property
    def caption(self) -> str:
        """Class and, of a detection, score."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


@dataclass(frozen=True)
class Scene:
    """One image as a report shows it."""

    name: str  # file name
    width: int  # pixels
    height: int
    data: str  # the image as a data URL; "" where it could not be read
    note: str  # why it could not
    objects: list[Shape]
    arms: Mapping[str, Sequence[list[Shape]]]  # arm -> for each of THRESHOLDS


def scenes(annotations: Path, predictions: Mapping[str, Path], folder: Path | None) -> list[Scene]:
    """The first images that have objects, by id, with what each arm's run found there at THRESHOLDS.

    predictions:  arm -> COCO results file of one run
    folder:       of the validation images; None where it is not known
    """
    truth = read_truth(load(annotations))
    found = {arm: match(read_detections(truth, load(path))) for arm, path in predictions.items()}
    made = []
    for n in np.unique(truth.image)[:NUM_SCENES].tolist():
        width, height = truth.sizes[n].tolist()
        data, note = embed(folder, truth.files[n], (width, height), MAX_SIDE)
        arms = {arm: [shapes(matched, n, threshold) for threshold in THRESHOLDS] for arm, matched in found.items()}
        made.append(Scene(truth.files[n], width, height, data, note, objects(truth, n), arms))
    return made


def objects(truth: GroundTruth, n: int, ignored: np.ndarray | None = None) -> list[Shape]:
    """The objects of image n; ignored [G] ones, by default crowds, are marked as such."""
    ignored = truth.crowd if ignored is None else ignored
    rows = range(*truth.slice(n).indices(len(truth.image)))
    return [_of_truth(truth, g, IGNORED if ignored[g] else OBJECT) for g in rows]


def shapes(matched: Matched, n: int, threshold: float, outcomes: Collection[str] = OUTCOMES) -> list[Shape]:
    """What the run makes of image n at the threshold, the best detection last.

    Ignored detections come with all OUTCOMES; with OBJECT in `outcomes` the objects that are found come first.
    """
    found, truth = matched.detections, matched.detections.truth
    wanted = {*outcomes, IGNORED} if set(OUTCOMES) <= set(outcomes) else set(outcomes)
    rows = range(*truth.slice(n).indices(len(truth.image)))
    missed = matched.missed(threshold)
    drawn = [_of_truth(truth, g, OBJECT, False) for g in rows if OBJECT in wanted and not missed[g]]
    drawn += [_of_truth(truth, g, MISS) for g in rows if MISS in wanted and missed[g]]
    kept = found.of_image(n)
    for d in kept[kept < found.kept(threshold)][::-1].tolist():
        outcome = HIT if matched.hit[d] else FALSE_ALARM if matched.false_alarm[d] else IGNORED
        if outcome in wanted:
            name = truth.classes[found.label[d]]
            drawn.append(Shape(tuple(found.box[d].tolist()), outcome, name, float(found.score[d])))
    return drawn


def svg(size: tuple[int, int], drawn: Sequence[Shape], inside: str = "", text: float = 0, attributes: str = "") -> str:
    """One picture. The page or `standalone` holds STYLE.

    size:        width and height of the image in pixels
    inside:      SVG below the boxes, such as `picture`
    text:        size of the captions in pixels of the image; 0 leaves all to the tooltips, as is one without room
    attributes:  of the svg element
    """
    parts = [_edges(drawn), *(_box(shape) for shape in drawn)]
    if text:
        parts += _captions([shape for shape in drawn if shape.has_caption], size, text)
    return (
        f'<svg class="scene" viewBox="0 0 {size[0]} {size[1]}" role="img" {attributes}>{inside}{"".join(parts)}</svg>'
    )


def picture(data: str, note: str, size: tuple[int, int], name: str = "") -> str:
    """The image inside of an `svg`, or a grey field with the reason why there is none; `name` is its id."""
    width, height = size
    if data:
        return f'<image id="{name}" href="{data}" width="{width}" height="{height}"/>'
    word = (
        f'<text class="word" x="{width / 2}" y="{height / 2}" font-size="{width / 22:.2f}">{html.escape(note)}</text>'
    )
    return f'<g id="{name}"><rect class="absent" width="{width}" height="{height}"/>{word}</g>'


def legend(outcomes: Sequence[str] = (*OUTCOMES, OBJECT)) -> str:
    """What the lines mean, as HTML."""
    return "".join(
        f'<span class="entry"><svg class="scene" width="34" height="14" viewBox="0 0 34 14">'
        f'<path class="edge" d="M1 7H33"/><path class="box {name.replace(" ", "-")}" d="M1 7H33"/></svg> '
        f"{html.escape(name)}</span>"
        for name in outcomes
    )


def outcome_counts(drawn: Sequence[Shape], outcomes: Sequence[str] = OUTCOMES) -> str:
    """How many boxes of each outcome there are: "2 hits, 1 false alarm, 0 misses"."""
    numbers = {name: sum(shape.outcome == name for shape in drawn) for name in OUTCOMES if name in outcomes}
    plural = {HIT: "hits", FALSE_ALARM: "false alarms", MISS: "misses"}
    return ", ".join(f"{n} {name if n == 1 else plural[name]}" for name, n in numbers.items())


def _of_truth(truth: GroundTruth, g: int, outcome: str, has_caption: bool = True) -> Shape:
    return Shape(tuple(truth.box[g].tolist()), outcome, truth.classes[truth.label[g]], has_caption=has_caption)


def _edges(drawn: Sequence[Shape]) -> str:
    """A dark edge around all lines, so that they show on any image: one element for any number of boxes."""
    boxes = (shape.box for shape in drawn)
    corners = "".join(f"M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z" for x, y, width, height in boxes)
    return f'<path class="edge" d="{corners}"/>'


def _box(shape: Shape) -> str:
    x, y, width, height = shape.box
    # Faint boxes stand for weak detections; without a threshold every query shows.
    faint = "" if shape.score is None else f' opacity="{0.25 + 0.75 * min(max(shape.score, 0), 1):.2f}"'
    return (
        f'<rect class="box {shape.outcome.replace(" ", "-")}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" '
        f'height="{height:.2f}"{faint}><title>{html.escape(f"{shape.outcome}: {shape.caption}")}</title></rect>'
    )


def _captions(drawn: Sequence[Shape], size: tuple[int, int], text: float) -> list[str]:
    """Above the boxes' upper left corners, or up to ROWS lines lower, where no better one stands; else in the tooltip.

    The last shape is the best. Captions stand in lines of one height, so that only those of a line can meet.
    """
    lines: dict[int, list[tuple[float, float]]] = defaultdict(list)  # line -> left and right of what stands there
    written = []
    for shape in reversed(drawn):
        length = 0.55 * text * len(shape.caption)
        left = min(max(shape.box[0], 0), max(size[0] - length, 0))
        first = max(int(shape.box[1] // text), 1)
        for line in range(first, first + ROWS + 1):
            if all(left >= end or start >= left + length for start, end in lines[line]):
                lines[line].append((left, left + length))
                place = f'x="{left:.2f}" y="{(line - 0.15) * text:.2f}" font-size="{text:.2f}"'
                written.append(f"<text {place}>{html.escape(shape.caption)}</text>")
                break
    return written
