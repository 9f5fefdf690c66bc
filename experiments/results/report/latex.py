"""A report as a LaTeX document with booktabs tables, for pdflatex and the others."""

import unicodedata
from collections.abc import Sequence

import pandas as pd

from experiments.results.report.sections import Section
from experiments.results.report.tables import NUMERIC

PREAMBLE = r"""\documentclass[a4paper,10pt]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{array}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[margin=2cm]{geometry}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
\begin{document}
"""
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--",
    "’": "'", "…": r"\dots{}",
}  # fmt: skip
WORDS = 30  # characters of a cell from which it is set in lines
LONG = 40  # rows of a table that still fit on a page


def document(title: str, sections: Sequence[Section]) -> str:
    """The whole document; figures are those of the HTML report."""
    parts = [f"\\section*{{{escape(title)}}}"]
    for section in sections:
        if not section.reads:
            continue
        parts.append(f"\\subsection*{{{escape(section.heading)}}}")
        parts += [escape(paragraph) for paragraph in section.paragraphs]
        if section.items:
            items = "\n".join(rf"\item {{}}{escape(item)}" for item in section.items)
            parts.append(f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}")
        for frame in section.tables:
            parts += [table(frame[start : start + LONG]) for start in range(0, max(len(frame), 1), LONG)]
    return PREAMBLE + "\n\n".join(parts) + "\n\n\\end{document}\n"


def table(frame: pd.DataFrame) -> str:
    """A frame of texts as a booktabs table, shrunk where it is wider than the page."""
    texts = frame.astype(str)
    rows = [" & ".join(_cell(value) for value in row) + r" \\" for row in texts.itertuples(index=False)]
    head = " & ".join(escape(str(name)) for name in frame.columns) + r" \\"
    columns = "".join(_column(texts.iloc[:, i].tolist()) for i in range(len(frame.columns)))
    inner = "\n".join([f"\\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
    # The width is that of the text at most: \resizebox alone would also enlarge.
    return (
        "\\begin{center}\n\\sbox0{%\n"
        f"{inner}\n\\end{{tabular}}}}%\n"
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi\n\\end{center}"
    )


def _column(values: Sequence[str]) -> str:
    """Numbers to the right, words to the left, and long ones in lines."""
    if any(len(value) > WORDS for value in values):
        return r">{\raggedright\arraybackslash}p{4.2cm}"
    return "r" if values and all(NUMERIC.fullmatch(value) for value in values) else "l"


def _cell(value: str) -> str:
    """A cell's text, which may break behind a comma."""
    return escape(value).replace(",", r",\allowbreak{}")


def escape(value: str) -> str:
    """Text that LaTeX prints as it is. Characters that the T1 fonts lack become their code point."""
    return "".join(_character(c) for c in " ".join(value.split()))


def _character(c: str) -> str:
    if c in SPECIAL:
        return SPECIAL[c]
    if c.isascii():
        return c if c.isprintable() else ""
    latin = unicodedata.name(c, "").startswith("LATIN") and ord(c) < 0x180
    return c if latin else f"[U+{ord(c):04X}]"
