"""The table of faults that `make chaos` ends with: what was tried, survived and lost.

A plugin of pytest. The long tests count every attempt; of all other tests each is an attempt of its function's name.
"""

import json
import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "runs"
SEED = int(os.environ.get("CHAOS_SEED", "0"))
ATTEMPTS: dict[str, list[bool]] = {}  # fault -> whether each attempt was survived


def attempt(fault: str, survived: bool) -> None:
    """Count an attempt; what was lost fails the test as well."""
    ATTEMPTS.setdefault(fault, []).append(survived)
    assert survived, f"{fault}: attempt {len(ATTEMPTS[fault])}, CHAOS_SEED={SEED}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests that do not count by themselves. What fails outside of an attempt is a loss, too."""
    chaos = "test_chaos" in report.nodeid
    if report.failed or (report.when == "call" and report.passed and not chaos):
        name = report.nodeid.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
        ATTEMPTS.setdefault(name, []).append(report.passed)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and keep it."""
    rows = [
        {"fault": fault, "tried": len(found), "survived": sum(found), "lost": len(found) - sum(found)}
        for fault, found in ATTEMPTS.items()
    ]
    lines = ["| fault | tried | survived | lost |", "|---|---|---|---|"]
    lines += ["| {fault} | {tried} | {survived} | {lost} |".format(**row) for row in rows]
    text = "\n".join([*lines, "", f"CHAOS_SEED={SEED}", ""])
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "chaos.json").write_text(json.dumps({"seed": SEED, "rows": rows}, indent=1))
    (FOLDER / "chaos.md").write_text(text)
    terminalreporter.write(f"\n{text}{FOLDER / 'chaos.md'}\n")
