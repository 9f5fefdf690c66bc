"""The report of an ablation, from what is stored: Markdown, LaTeX, CSV and one self-contained HTML page.

The same store gives the same bytes: no clock, no random id, a fixed bootstrap seed.
"""

from pathlib import Path

import pandas as pd

from experiments.results.evidence import Evidence, gather
from experiments.results.reading.ablations import newest_ablation, report_folder
from experiments.results.report.html import page
from experiments.results.report.latex import document
from experiments.results.report.markdown import text
from experiments.results.report.sections import sections, title
from experiments.results.report.tables import arm_table, contrast_table
from experiments.results.verdicts import Verdict
from experiments.schema.contrasts import EXPLORATORY, PRIMARY, SECONDARY
from experiments.schema.store import Store, StoreError

NOTHING = pd.DataFrame()


def render(evidence: Evidence) -> dict[str, str]:
    """File name -> content of every file of the report."""
    parts, head = sections(evidence), title(evidence)
    frames = {
        "table.csv": arm_table(evidence.results, evidence.images),
        "contrasts.csv": contrast_table(evidence.verdicts),
        "effects.csv": pd.concat([frame.assign(metric=key) for key, frame in evidence.effects.items()] or [NOTHING]),
        "classes.csv": evidence.classes,
        "conditions.csv": evidence.conditions,
    }
    return {
        "report.html": page(head, parts, evidence),
        "report.md": text(head, parts),
        "report.tex": document(head, parts),
    } | {name: frame.to_csv(index=False) for name, frame in frames.items() if not frame.empty}


def write(evidence: Evidence, folder: Path) -> list[Path]:
    """Write all files of the report into the folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in render(evidence).items():
        (folder / name).write_text(content, encoding="utf-8")
        written.append(folder / name)
    return written


def spoken(verdicts: list[Verdict]) -> list[str]:
    """The verdicts for a terminal: primary and secondary ones, and how many exploratory ones the report holds."""
    lines = [f"{v.contrast.role}: {v.short}" for v in verdicts if v.contrast.role in (PRIMARY, SECONDARY)]
    more = sum(v.contrast.role == EXPLORATORY for v in verdicts)
    return [*lines, f"{more} exploratory contrasts are in the report"] if more else lines


def report(store: Store, ablation: str | None, output: Path | None) -> tuple[Evidence, Path]:
    """Write the report of the newest ablation, of any name or of this one; StoreError where there is none."""
    run_id = newest_ablation(store, ablation)
    if run_id is None:
        named = f"ablation named {ablation!r}" if ablation else "ablation"
        raise StoreError(f"{store.address} has no {named}; python experiments/run.py ablation=lr_clip makes one")
    evidence = gather(store, run_id)
    folder = output or report_folder(store, run_id)
    write(evidence, folder)
    return evidence, folder
