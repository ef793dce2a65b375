"""How long are the functions? Lines of each function of the package, signature and docstring included.

python benchmarks/function_lengths.py
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FOLDERS = ("gfmpot", "calculators", "recipes", "benchmarks")


def functions(path: Path) -> list[tuple[int, int, str]]:
    """(lines, lines without docstring, name) of each function in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            doc = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
            found.append((lines, lines - doc, f"{path.relative_to(ROOT)}:{node.name}"))
    return found


def main() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if not _foreign(path)]
    rows = sorted(row for path in files for row in functions(path))
    for name, column in (("lines", 0), ("lines without docstring", 1)):
        values = [row[column] for row in rows]
        median, ninety, top = np.percentile(values, [50, 90, 100])
        print(f"{name}: {len(values)} functions, median {median:.0f}, 90 % {ninety:.0f}, maximum {top:.0f}")
    print("longest:", *(f"  {lines} ({code} without docstring) {name}" for lines, code, name in rows[-5:]), sep="\n")
    sizes = sorted((len(path.read_text().splitlines()), str(path.relative_to(ROOT))) for path in files)
    print("largest files:", *(f"  {lines} {name}" for lines, name in sizes[-3:]), sep="\n")


def _foreign(path: Path) -> bool:
    """Seen through a link, or of an environment (benchmarks/envs)."""
    return any(parent.is_symlink() for parent in path.parents) or "site-packages" in path.parts


if __name__ == "__main__":
    main()
