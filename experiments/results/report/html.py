"""A report as one HTML page that needs nothing else: plotly.js and the images are inside."""

import html
from collections.abc import Iterator, Sequence

import pandas as pd
from plotly.offline import get_plotlyjs

from experiments.results.detections.scenes import STYLE as SCENE_STYLE
from experiments.results.detections.scenes import THRESHOLDS, Scene, Shape, legend, outcome_counts, picture, svg
from experiments.results.evidence import Evidence
from experiments.results.report.sections import Plot, Section
from experiments.results.report.tables import NUMERIC

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 1180px; padding: 16px 24px 60px; }
h1 { font-size: 24px; } h2 { font-size: 19px; margin-top: 36px; border-top: 1px solid #ddd; padding-top: 14px; }
nav a { margin-right: 14px; } a { color: #0b5394; } li { margin-bottom: 5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 10px 0; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: left; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
td.number { text-align: right; } td.words { white-space: normal; min-width: 200px; }
thead th { border-bottom: 2px solid #888; } .incomplete { background: #fff3cd; padding: 8px 12px; }
figure { margin: 14px 0; } figcaption { color: #555; font-size: 13px; }
.pictures { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; margin: 6px 0 28px; }
.pictures svg { width: 100%; background: #eee; display: block; }
.pictures p { margin: 2px 0 0; font-size: 12.5px; overflow-wrap: anywhere; } .head { font-weight: 600; margin: 0; }
.key .entry { margin-right: 18px; } .key svg { vertical-align: -2px; background: #999; }
"""


def page(title: str, sections: Sequence[Section], evidence: Evidence | None = None) -> str:
    """The whole page; `evidence` has the pictures of sections that ask for them."""
    ids = [f"s{i}" for i in range(len(sections))]
    links = "".join(f'<a href="#{i}">{html.escape(s.heading)}</a>' for i, s in zip(ids, sections, strict=True))
    body = "".join(_section(i, s, evidence) for i, s in zip(ids, sections, strict=True))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{SCENE_STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head>\n<body><h1>{html.escape(title)}</h1><nav>{links}</nav>\n"
        f"{body}</body></html>\n"
    )


def _section(name: str, section: Section, evidence: Evidence | None) -> str:
    parts = [f'<section id="{name}"><h2>{html.escape(section.heading)}</h2>']
    parts += [_paragraph(paragraph) for paragraph in section.paragraphs]
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in section.items) + "</ul>")
    parts += [table(frame) for frame in section.tables]
    parts += [_plot(plot) for plot in section.plots]
    if section.pictures and evidence:
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
    kind = ' class="words"' if len(value) > 30 else ' class="number"' if NUMERIC.fullmatch(value) else ""
    return f"<td{kind}>{html.escape(value)}</td>"


def _plot(plot: Plot) -> str:
    drawn = plot.figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"figure-{plot.name}", config={"displaylogo": False}
    )
    return f"<figure>{drawn}<figcaption>{html.escape(plot.caption)}</figcaption></figure>"


def _pictures(scenes: Sequence[Scene]) -> Iterator[str]:
    """For each image the ground truth, and beside it, a row an arm, the detections above each threshold."""
    yield (
        "<p>The first images that have objects, by id. A detection is a hit where it overlaps an object of its class by "
        "at least half (IoU 0.5) and no better one does. Boxes fade with their score; hover one for class and score. "
        f'Arms are shown by the first seed that both have.</p><p class="key">{legend()}</p>'
    )
    for number, scene in enumerate(scenes):
        size, name = (scene.width, scene.height), f"scene-{number}"
        yield f'<p class="head">{html.escape(scene.name)}</p>'
        if scene.note:
            yield f"<p>{html.escape(scene.note)}; the boxes are drawn without it.</p>"
        image = picture(scene.data, "", size, name)
        again = f'<use href="#{name}"/>'  # of the image, which the page holds once
        cells = [_picture(svg(size, scene.objects, image), "ground truth", _number(scene.objects))]
        for i, (arm, drawn) in enumerate(scene.arms.items()):
            cells += ["<div></div>"] if i else []  # below the ground truth
            for threshold, shapes in zip(THRESHOLDS, drawn, strict=True):
                title = f"{arm}, {f'score from {threshold:.2f} on' if threshold else 'no threshold'}"
                cells.append(_picture(svg(size, shapes, again), title, outcome_counts(shapes)))
        yield f'<div class="pictures">{"".join(cells)}</div>'


def _picture(drawn: str, name: str, count: str) -> str:
    return f"<div>{drawn}<p>{html.escape(name)}: {count}</p></div>"


def _number(shapes: Sequence[Shape]) -> str:
    return f"{len(shapes)} {'box' if len(shapes) == 1 else 'boxes'}"
