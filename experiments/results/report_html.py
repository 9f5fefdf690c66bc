"""A report as one HTML page that needs nothing else: plotly.js and the images are inside."""

import html
from collections.abc import Iterator, Sequence

import pandas as pd
from plotly.offline import get_plotlyjs

from experiments.results.evidence import Evidence
from experiments.results.scenes import PALETTE, THRESHOLDS, Scene, above, svg
from experiments.results.sections import Plot, Section

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 1180px; padding: 16px 24px 60px; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 36px; border-top: 1px solid #ddd; padding-top: 14px; }
nav a { margin-right: 14px; } a { color: #0b5394; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th:first-child, td:first-child, td.words { text-align: left; } td.words { white-space: normal; min-width: 220px; }
thead th { border-bottom: 2px solid #888; } .incomplete { background: #fff3cd; padding: 8px 12px; }
figure { margin: 14px 0; } figcaption { color: #555; font-size: 13px; }
.pictures { display: grid; gap: 6px; margin: 12px 0 26px; } .pictures svg { width: 100%; background: #eee; image-rendering: auto; display: block; }
.pictures p { margin: 0; font-size: 12.5px; overflow-wrap: anywhere; } .pictures .head { font-weight: 600; }
.key span { display: inline-block; width: 12px; height: 12px; margin: 0 5px 0 14px; vertical-align: -1px; }
"""


def page(title: str, sections: Sequence[Section], evidence: Evidence) -> str:
    """The whole page."""
    ids = [f"s{i}" for i in range(len(sections))]
    links = "".join(f'<a href="#{i}">{html.escape(s.heading)}</a>' for i, s in zip(ids, sections, strict=True))
    body = "".join(_section(i, s, evidence) for i, s in zip(ids, sections, strict=True))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n<body><h1>{html.escape(title)}</h1><nav>{links}</nav>\n"
        f"{body}</body></html>\n"
    )


def _section(name: str, section: Section, evidence: Evidence) -> str:
    parts = [f'<section id="{name}"><h2>{html.escape(section.heading)}</h2>']
    parts += [_paragraph(paragraph) for paragraph in section.paragraphs]
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in section.items) + "</ul>")
    parts += [table(frame) for frame in section.tables]
    parts += [_plot(plot) for plot in section.plots]
    if section.pictures:
        parts += _pictures(evidence.scenes)
    return "\n".join([*parts, "</section>\n"])


def _paragraph(text: str) -> str:
    marked = ' class="incomplete"' if "INCOMPLETE" in text else ""
    return f"<p{marked}>{html.escape(text)}</p>"


def table(frame: pd.DataFrame) -> str:
    """A frame of texts as a table; long texts may wrap."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(_cell(str(value)) for value in row) + "</tr>" for row in frame.itertuples(index=False)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: str) -> str:
    words = ' class="words"' if len(value) > 30 else ""
    return f"<td{words}>{html.escape(value)}</td>"


def _plot(plot: Plot) -> str:
    drawn = plot.figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"figure-{plot.name}", config={"displaylogo": False}
    )
    return f"<figure>{drawn}<figcaption>{html.escape(plot.caption)}</figcaption></figure>"


def _pictures(scenes: Sequence[Scene]) -> Iterator[str]:
    """For each image the ground truth, and below the detections of both arms above each threshold."""
    classes = sorted({box[4] for s in scenes for boxes in (s.truth, *s.detections.values()) for box in boxes})
    key = "".join(
        f'<span style="background:{PALETTE[i % len(PALETTE)]}"></span>{html.escape(name)}'
        for i, name in enumerate(classes)
    )
    yield (
        "<p>The first images that have objects, by id. Boxes fade with their score; hover one for class and score. "
        "Arms are shown by the first seed that both have.</p>"
        f'<p class="key">{key}</p>'
    )
    for number, scene in enumerate(scenes):
        if scene.note:
            yield f"<p>{html.escape(scene.name)}: {html.escape(scene.note)}; boxes are drawn without it.</p>"
        cells = [("ground truth", scene.truth)]
        for arm, boxes in scene.detections.items():
            for threshold in THRESHOLDS:
                above_what = f"score above {threshold:.2f}" if threshold else "no threshold"
                cells.append((f"{arm}, {above_what}", above(boxes, threshold)))
        drawn = [
            f"<div>{svg(scene, number, boxes, classes, first=i == 0)}<p>{html.escape(name)}: {len(boxes)} boxes</p></div>"
            for i, (name, boxes) in enumerate(cells)
        ]
        yield f'<p class="head">{html.escape(scene.name)}</p>'
        yield f'<div class="pictures" style="grid-template-columns: repeat({len(cells)}, 1fr)">{"".join(drawn)}</div>'
