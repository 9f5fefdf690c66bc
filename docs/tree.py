"""Print the tree of the project, one line a file from its docstring, and keep it in docs/architecture.md.

python docs/tree.py      # writes it there; tests/test_docs.py compares
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- tree: python docs/tree.py -->\n", "<!-- end of the tree -->"
BUILDINGS = ("detr", "experiments", "dashboard")


def tree() -> str:
    """Rooms of every building and their files, each with the first sentence of its docstring."""
    lines = []
    for building in BUILDINGS:
        folders = sorted({path.parent for path in (ROOT / building).rglob("*.py")})
        for folder in folders:
            name = str(folder.relative_to(ROOT))
            lines.append(f"{name + '/':34}{first_sentence(folder / '__init__.py')}")
            files = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
            lines += [f"{'    ' + path.name:34}{first_sentence(path)}" for path in files]
    return "```\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def first_sentence(path: Path) -> str:
    """First sentence of a module's docstring, without its full stop; empty for a module that has none."""
    documentation = ast.get_docstring(ast.parse(path.read_text())) if path.is_file() else None
    sentence = " ".join((documentation or "").partition("\n\n")[0].split())
    return sentence.partition(". ")[0].removesuffix(".")


def with_tree(page: str) -> str:
    """The page with the present tree between its marks."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_tree(PAGE.read_text()))
    sys.stdout.write(f"{PAGE}\n")
