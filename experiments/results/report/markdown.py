"""A report as Markdown."""

from collections.abc import Sequence

import pandas as pd

from experiments.results.report.sections import Section


def text(title: str, sections: Sequence[Section]) -> str:
    """The whole page; figures and pictures are those of the HTML report."""
    parts = [f"# {escape(title)}"]
    for section in sections:
        if not section.reads:
            continue
        parts.append(f"## {escape(section.heading)}")
        parts += [escape(paragraph) for paragraph in section.paragraphs]
        if section.items:
            parts.append("\n".join(f"- {escape(item)}" for item in section.items))
        parts += [table(frame) for frame in section.tables]
    return "\n\n".join([*parts, "Figures and detections: report.html."]) + "\n"


def table(frame: pd.DataFrame) -> str:
    """A frame of texts as a pipe table."""
    shown = frame.map(lambda value: escape(str(value)))
    return shown.rename(columns=lambda name: escape(str(name))).to_markdown(index=False, disable_numparse=True)


def escape(value: str) -> str:
    """On one line, without HTML and without breaking a table."""
    one_line = " ".join(value.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
