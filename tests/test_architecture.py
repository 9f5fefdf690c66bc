"""Rules of the house: direction of imports, names of modules, one place for every name, imports without effects."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("detr", "experiments", "dashboard")
TORCH, HYDRA = {"torch", "torchvision"}, {"hydra", "omegaconf"}
NEVER = {  # imported by the package's own files, wherever in them
    "detr": HYDRA | {"mlflow", "optuna", "streamlit", "plotly", "experiments", "dashboard"},
    "experiments": {"streamlit", "dashboard"},
    "experiments.schema": TORCH | HYDRA | {"mlflow", "optuna", "pandas", "numpy"},
    "experiments.results": TORCH | HYDRA,
    "dashboard": TORCH | HYDRA | {"mlflow", "detr"},
}
NEVER_REACHED = {  # nor by any of our modules that they import
    "experiments.schema": TORCH | HYDRA | {"mlflow", "optuna", "pandas"},
    "experiments.results": TORCH | HYDRA,
    "dashboard": TORCH | HYDRA,
}
OWN = {  # of our own modules, those that the package may use
    "detr": ("detr",),
    "experiments.schema": ("experiments.schema", "detr"),
    "experiments.results": ("experiments.results", "experiments.schema", "detr"),
    "dashboard": ("dashboard", "experiments.results", "experiments.schema"),
}
READ_SIDE = [
    "experiments.results.reading.ablations",
    "experiments.results.report.ablation_report",
    "experiments.results.figures.sweep_figures",
    "experiments.results.report.command",
]


def files(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    paths = (ROOT / package.replace(".", "/")).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = {name: path for package in OURS for name, path in files(package).items()}


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, wherever in it, but for type checking; a name from a module as module.name."""
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
            assert not node.level, f"{path.relative_to(ROOT)}, line {node.lineno}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def loaded(name: str) -> Iterator[str]:
    """Our modules that importing this dotted name runs: the module itself and the packages around it."""
    parts = name.split(".")
    yield from (prefix for i in range(1, len(parts) + 1) if (prefix := ".".join(parts[:i])) in MODULES)


def reached(module: str) -> dict[str, tuple[str, ...]]:
    """Top-level name of every library that the module or any that it imports uses -> the way there."""
    libraries: dict[str, tuple[str, ...]] = {}
    ways, todo = {one: (one,) for one in loaded(module)}, list(loaded(module))
    while todo:
        now = todo.pop()
        for name in imported(MODULES[now]):
            if name.split(".")[0] not in OURS:
                libraries.setdefault(name.split(".")[0], ways[now])
            for further in loaded(name):
                if further not in ways:
                    ways[further] = (*ways[now], further)
                    todo.append(further)
    return libraries


@pytest.mark.parametrize("package", NEVER)
def test_imports_point_one_way(package):
    for path in files(package).values():
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & NEVER[package], f"{path.relative_to(ROOT)} imports {tops & NEVER[package]}"


@pytest.mark.parametrize("package", OWN)
def test_a_package_uses_its_own_rooms_and_those_below(package):
    for path in files(package).values():
        ours = {name for name in imported(path) if name.split(".")[0] in OURS}
        foreign = {name for name in ours if not any(f"{name}.".startswith(f"{own}.") for own in OWN[package])}
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


@pytest.mark.parametrize("package", NEVER_REACHED)
def test_no_way_leads_from_the_read_side_to_torch(package):
    for module in files(package):
        ways = {library: way for library, way in reached(module).items() if library in NEVER_REACHED[package]}
        assert not ways, ways


def test_the_walk_sees_what_is_imported_in_between():
    assert reached("experiments.definition.compose").keys() >= {"hydra", "omegaconf"}
    assert "torch" in reached("experiments.run") and reached("experiments.run")["torch"][0] != "torch"


@pytest.mark.parametrize("module", [*READ_SIDE, "experiments.tracking.client"])
def test_read_side_loads_no_torch(module, run_python):
    assert run_python(f"import {module}, sys; print('torch' in sys.modules, 'hydra' in sys.modules)") == "False False"


def test_a_sqlite_store_is_read_without_mlflow(run_python):
    """Its import and start take seconds, which a page would wait for."""
    code = "".join(f"import {module}; " for module in (*READ_SIDE, "experiments.results.reading.listing"))
    assert run_python(f"{code}import sys; print('mlflow' in sys.modules)") == "False"


def test_no_module_hides_a_library():
    """`python experiments/run.py` and streamlit put these folders first on the path."""
    libraries = set(packages_distributions()) | set(sys.stdlib_module_names)
    for package in ("experiments", "dashboard"):
        own = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not own & libraries - {"__init__", "__pycache__"}


def alike(one: str, other: str) -> bool:
    """Whether two names are the same, or one is the other's plural, agent or the like: trials, uploader."""
    short, long = sorted((one, other), key=len)
    return long.startswith(short) and len(long) - len(short) <= 2


def test_a_plural_and_an_agent_are_alike():
    assert alike("trials", "trial") and alike("upload", "uploader") and alike("names", "names")
    assert not alike("batch", "watch") and not alike("report", "report_text")


@pytest.mark.parametrize("building", ["detr", "experiments", "dashboard"])
def test_no_two_modules_have_names_alike(building):
    paths = [path.relative_to(ROOT) for path in (ROOT / building).rglob("*.py") if path.stem != "__init__"]
    assert not [(str(a), str(b)) for a, b in combinations(paths, 2) if alike(a.stem, b.stem)]


def defined_names(path: Path) -> set[str]:
    """Names that a file makes itself: functions, classes and assignments anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    made = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return made | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_every_name_is_imported_from_the_module_that_makes_it():
    """A package's `__init__` may offer a name of its modules; a module offers its own alone."""
    second_doors = []
    for folder in ("detr", "experiments", "dashboard", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                module = ROOT / str(getattr(node, "module", "")).replace(".", "/")
                if not isinstance(node, ast.ImportFrom) or not module.with_suffix(".py").is_file():
                    continue
                borrowed = {alias.name for alias in node.names} - defined_names(module.with_suffix(".py"))
                second_doors += [f"{path.relative_to(ROOT)}: {name} of {node.module}" for name in borrowed]
    assert not second_doors


IMPORT_ALL = """
import importlib, logging, os, pkgutil, sys
import hydra, mlflow, optuna, pandas, plotly, rich, streamlit, torch, torchvision, urllib3  # these have effects
import mlflow.system_metrics, optuna.visualization, transformers

def state():
    levels = {name: logging.getLogger(name).level for name in (None, "mlflow", "urllib3", "optuna", "detr")}
    return dict(os.environ), levels, list(sys.path)

before = state()
for building in ("detr", "experiments", "dashboard"):
    package = importlib.import_module(building)
    for module in pkgutil.walk_packages(package.__path__, f"{building}."):
        if module.name != "dashboard.app":  # streamlit's entry point
            importlib.import_module(module.name)
(env, levels, path), (env_after, levels_after, path_after) = before, state()
print([name for name in env_after if env.get(name) != env_after[name]], levels_after == levels, path_after == path)
"""


def test_no_import_changes_the_environment_the_loggers_or_the_path():
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[] True True"), done.stdout + done.stderr


def test_packaging_ships_configuration_and_references():
    text = (ROOT / "pyproject.toml").read_text()
    assert "conf/**/*.yaml" in text and "results/report/references.csv" in text
    assert all(f'"{package}*"' in text for package in OURS)
