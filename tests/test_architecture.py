"""The house's rules: who imports whom, and no module that hides a library."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "detr": {"hydra", "omegaconf", "mlflow", "optuna", "streamlit", "plotly", "experiments", "dashboard"},
    "experiments": {"streamlit", "dashboard"},
    "experiments/results": {"torch", "torchvision", "detr", "hydra", "omegaconf", "streamlit", "dashboard"},
    "dashboard": {"torch", "torchvision", "detr", "hydra", "omegaconf", "mlflow"},
}
READ_SIDE = [
    "experiments.results.reading.ablations",
    "experiments.results.report.ablation_report",
    "experiments.results.figures.sweep_figures",
]
# of our own modules, what the read side may use
RESULTS_MAY_USE = ("experiments.results", "experiments.schema")


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it, but for type checking."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        tops = {name.split(".")[0] for name in imported_modules(path)}
        assert not tops & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {tops & FORBIDDEN[package]}"


def test_read_side_uses_the_store_and_its_names_alone():
    for path in (ROOT / "experiments/results").rglob("*.py"):
        ours = {name for name in imported_modules(path) if name.startswith("experiments")}
        allowed = {name for name in ours if name.startswith(RESULTS_MAY_USE)}
        assert ours == allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


def test_dashboard_uses_the_read_side_alone():
    for path in (ROOT / "dashboard").rglob("*.py"):
        ours = {name for name in imported_modules(path) if name.startswith("experiments")}
        allowed = {name for name in ours if name.startswith(("experiments.results", "experiments.schema"))}
        assert ours == allowed, f"{path.relative_to(ROOT)} imports {ours - allowed}"


@pytest.mark.parametrize("module", [*READ_SIDE, "experiments.tracking.client"])
def test_read_side_loads_no_torch(module, run_python):
    assert run_python(f"import {module}, sys; print('torch' in sys.modules, 'hydra' in sys.modules)") == "False False"


def test_a_sqlite_store_is_read_without_mlflow(run_python):
    """Its import and start take seconds, which a page would wait for."""
    modules = "reading.ablations, experiments.results.reading.listing, experiments.results.report.ablation_report"
    code = f"import experiments.results.{modules}, sys; print('mlflow' in sys.modules)"
    assert run_python(code) == "False"


def test_no_module_hides_a_library():
    """`python experiments/run.py` and streamlit put these folders first on the path."""
    libraries = set(packages_distributions()) | set(sys.stdlib_module_names)
    for package in ("experiments", "dashboard"):
        own = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not own & libraries - {"__init__", "__pycache__"}


def test_packaging_ships_the_configuration():
    text = (ROOT / "pyproject.toml").read_text()
    assert "conf/**/*.yaml" in text
    assert all(f'"{package}*"' in text for package in ("detr", "experiments", "dashboard"))
