"""Commands: each script has an entry point, a line in the README's table, a help text, and the same exit codes."""

import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from detr.errors import ExitCode, InputError, LostProcess, UnavailableError, run_command

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_the_readme_has_a_row_for_every_command():
    rows = re.findall(r"^\| `(detr-[a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_explains_itself(script, monkeypatch, capsys):
    module, _, function = SCRIPTS[script].partition(":")
    monkeypatch.setattr(sys, "argv", [f"bin/{script}", "--help"])
    try:
        code = getattr(import_module(module), function)()
    except SystemExit as end:  # argparse's
        code = end.code
    assert code == ExitCode.DONE and script in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("optim.lr={}"), 2, "error: optim.lr={}\n"),
        (UnavailableError("no server"), 1, "error: no server\n"),
        (LostProcess("rank 1"), 3, "stopped: rank 1; the same command goes on\n"),
        (KeyboardInterrupt(), 3, "stopped; the same command goes on\n"),
    ],
)
def test_every_error_of_a_user_is_one_line_and_an_exit_code(error, code, line, capsys):
    def command() -> int:
        raise error

    assert run_command(command) == code
    assert capsys.readouterr().err == line


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


def test_a_command_may_leave_an_error_to_its_caller():
    def command() -> int:
        raise LostProcess("rank 1")

    with pytest.raises(LostProcess):
        run_command(command, passing=(LostProcess,))


def test_what_users_are_told_to_type_are_commands():
    """No message, page or target names a module that has a script."""
    modules = "|".join(re.escape(entry.partition(":")[0]) for entry in SCRIPTS.values())
    files = [ROOT / "Makefile", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for building in ("detr", "experiments", "dashboard"):
        files += (ROOT / building).rglob("*.py")
    for path in files:
        assert not re.findall(rf"python -m ({modules})\b", path.read_text()), path
