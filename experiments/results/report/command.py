"""Write the report of an ablation or a sweep again, from the store that mlflow.yaml names.

    detr-report                              the newest ablation
    detr-report lr_clip --output somewhere   the newest one of this name
    detr-report --sweep lr_clip              a sweep

Exit codes: 0 done, 2 the input is wrong.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from detr.errors import run_command
from experiments.schema.store import load_store


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="of the ablation or sweep (default: the newest)")
    parser.add_argument("--sweep", action="store_true", help="report a sweep instead of an ablation")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder (default: report/ in its own folder)")
    options = parser.parse_args(arguments)
    return run_command(lambda: report(options))


def report(options: Namespace) -> int:
    """Write the report that the options name, and print its verdicts and its place."""
    store = load_store()
    if options.sweep:
        from experiments.results.report import sweep_report  # imports Optuna

        results, folder = sweep_report.report(store, options.name, options.output)
        lines = sweep_report.spoken(results)
    else:
        from experiments.results.report import ablation_report

        evidence, folder = ablation_report.report(store, options.name, options.output)
        lines = ablation_report.spoken(evidence.verdicts)
    sys.stdout.write("\n".join([*lines, f"report  {folder / 'report.html'}", ""]))
    return 0
