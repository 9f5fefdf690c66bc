"""Pictures with boxes as one element of the page: drawn as SVG from stored detections, chosen by a click or Enter."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboard import data
from experiments.results.detections import scenes
from experiments.results.detections.matching import GroundTruth, Matched

NAME = "detr_gallery"
PLACE = '<div id="gallery"></div>'
SCRIPT = """
export default function ({ parentElement, data, setTriggerValue }) {
  const gallery = parentElement.querySelector("#gallery");
  gallery.innerHTML = data;
  const open = (event) => {
    const card = event.target.closest("[data-image]");
    if (card) setTriggerValue("opened", card.dataset.image);
  };
  gallery.onclick = open;
  gallery.onkeydown = (event) => { if (event.key === "Enter") open(event); };
}
"""
STYLE = (
    scenes.STYLE
    + """
#gallery { color: var(--st-text-color); font-family: var(--st-font); font-size: 13px; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--card)), 1fr)); }
.card { border: 1px solid var(--st-border-color); border-radius: 6px; padding: 6px 8px 8px; }
.card[data-image] { cursor: zoom-in; }
.card[data-image]:hover, .card[data-image]:focus-visible { border-color: var(--st-primary-color); outline: none; }
.panes { display: grid; gap: 6px; grid-auto-flow: column; grid-auto-columns: 1fr; }
.large .panes { grid-auto-flow: row; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
.panes svg { width: 100%; display: block; background-size: 100% 100%; }
.card p { margin: 0 0 4px; overflow-wrap: anywhere; } .card .count { margin: 3px 0 0; font-size: 12px; }
.card .arm { border-bottom: 3px solid; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.key { margin: 0 0 8px; } .key svg { vertical-align: -2px; background: #777; } .key .entry { margin-right: 18px; }
"""
)
PANE = 180  # pixels that a picture on a page of many gets at least
SIDES = {False: 384, True: 1600}  # of image files, by whether they are shown large


@dataclass(frozen=True)
class Arm:
    """One column of pictures."""

    name: str
    colour: str
    matched: Matched


@dataclass(frozen=True)
class Look:
    """How pictures are drawn."""

    threshold: float
    outcomes: Sequence[str]  # of scenes.OUTCOMES, the boxes to draw
    truth_apart: bool  # a picture of the objects alone comes first
    large: bool  # one image in full size rather than many


def show(truth: GroundTruth, arms: Sequence[Arm], images: Sequence[int], folder: Path | None, look: Look) -> None:
    """Draw the images, by their index. A click or Enter on one of many puts its id into the state as "image"."""
    pictures = {
        n: data.image(folder, truth.files[n], tuple(truth.sizes[n].tolist()), SIDES[look.large]) for n in images
    }
    # Apart from what a new threshold changes: the browser keeps the images, and nothing flickers.
    urls = "".join(f"--image-{n}: url({url});" for n, (url, _) in pictures.items() if url)
    style = f":root {{ {urls} }}"
    st.html(f"<style>{style}</style>")
    cards = "".join(card(truth, arms, n, note, look) for n, (_, note) in pictures.items())
    width = "100%" if look.large else f"{PANE * (len(arms) + look.truth_apart)}px"
    gallery = st.components.v2.component(NAME, html=PLACE, css=STYLE, js=SCRIPT)  # again and again: the same
    kind = "cards large" if look.large else "cards"
    content = f'<p class="key">{scenes.legend()}</p><div class="{kind}" style="--card: {width}">{cards}</div>'
    gallery(data=content, key="gallery", on_opened_change=_open)
    st.download_button(
        "Pictures as HTML", lambda: document(style, content), "detections.html", key="download-pictures",
        on_click="ignore", icon=":material/download:", type="tertiary",
    )  # fmt: skip


def document(images: str, content: str) -> str:
    """A page of the pictures that needs nothing else; images are CSS, content is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Detections</title>'
        f'<style>{images}{STYLE}</style></head>\n<body><div id="gallery">{content}</div></body></html>\n'
    )


def card(truth: GroundTruth, arms: Sequence[Arm], n: int, note: str, look: Look) -> str:
    """The pictures of image n side by side, with what each arm's holds, as HTML; `note`: why there is no image."""
    size = tuple(truth.sizes[n].tolist())
    inside = scenes.picture("", note, size) if note else ""
    place = f'style="background-image: var(--image-{n})"'
    text = max(size) / (32 if look.large else 16)
    panes = []
    if look.truth_apart:
        drawn = scenes.objects(truth, n, arms[0].matched.truth_ignored if arms else None)
        number = sum(shape.outcome == scenes.OBJECT for shape in drawn)
        count = f"{number} {'object' if number == 1 else 'objects'}"
        panes.append(_pane("ground truth", "currentColor", scenes.svg(size, drawn, inside, text, place), count))
    for arm in arms:
        drawn = scenes.shapes(arm.matched, n, look.threshold, (scenes.OBJECT, *look.outcomes))
        picture = scenes.svg(size, drawn, inside, text, place)
        panes.append(_pane(arm.name, arm.colour, picture, scenes.outcome_counts(drawn, look.outcomes)))
    name = html.escape(truth.files[n])
    opens = "" if look.large else f' data-image="{truth.image_ids[n]}" tabindex="0" role="button"'
    return f'<div class="card"{opens}><p>{name}</p><div class="panes">{"".join(panes)}</div></div>'


def _pane(name: str, colour: str, picture: str, count: str) -> str:
    name = html.escape(name)
    head = f'<p class="arm" style="border-color: {colour}" title="{name}">{name}</p>'
    return f'<div>{head}{picture}<p class="count">{count}</p></div>'


def _open() -> None:
    st.session_state["image"] = str(st.session_state["gallery"]["opened"])
