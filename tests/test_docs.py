"""The pages of docs/ that are made of the code."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_tree_of_the_architecture_page_is_the_present_one():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs/tree.py")
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    page = tree.PAGE.read_text()
    assert tree.with_tree(page) == page, "run `python docs/tree.py`"


def test_every_module_has_a_line_of_its_own():
    page = (ROOT / "docs/architecture.md").read_text()
    for building in ("detr", "experiments", "dashboard"):
        for path in (ROOT / building).rglob("*.py"):
            name = f"{path.parent.relative_to(ROOT)}/" if path.stem == "__init__" else f"    {path.name}"
            assert f"\n{name} " in page, path
