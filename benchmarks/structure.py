"""Counts the code of the package: `python -m benchmarks.structure` prints one table.

A code line is one that holds a token other than a comment or a docstring. A room is a module or a
package directly under `lsfa_lib`; an arrow is an import from one room into another.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

PACKAGE = Path(__file__).parents[1] / "lsfa_lib"
METHOD = ("records", "config", "features", "adaptation", "detection", "pipeline")
"""Rooms that are the method itself."""
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Function:
    """One function or method: its body's code lines (no docstring) and its parameters."""

    name: str
    lines: int
    parameters: int


@dataclass(frozen=True)
class Module:
    """One file, and what it imports from the package, as dotted names."""

    path: Path
    raw_lines: int
    code_lines: int
    functions: tuple[Function, ...]
    imports: frozenset[str]

    @property
    def room(self) -> str:
        """The module or package directly under `lsfa_lib` that it belongs to."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def code_line_numbers(text: str, tree: ast.AST) -> set[int]:
    """Numbers of the lines that hold code."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED and token.type != tokenize.ENDMARKER:
            found |= set(range(token.start[0], token.end[0] + 1))
    return found - docstrings


def functions_of(tree: ast.AST, code: set[int]) -> list[Function]:
    """Every function, nested ones too; the lines of a nested one count in both."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
            a = node.args
            names = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
            parameters = len([n for n in names if n not in ("self", "cls")])
            found.append(Function(node.name, len(code & set(body)), parameters))
    return found


def imported(tree: ast.AST) -> frozenset[str]:
    """Dotted names of what a module imports from the package, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lsfa_lib"):
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("lsfa_lib")}
    return frozenset(found)


def read_module(path: Path) -> Module:
    """Counts of one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    code = code_line_numbers(text, tree)
    return Module(
        path,
        text.count("\n"),
        len(code),
        tuple(functions_of(tree, code)),
        imported(tree),
    )


def modules() -> list[Module]:
    """Every Python file of the package."""
    return [read_module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def arrows(found: list[Module]) -> set[tuple[str, str]]:
    """(importing room, imported room), each pair once; `__init__` is no room."""
    rooms = {m.room for m in found}
    pairs = {
        (m.room, name.split(".")[1])
        for m in found
        for name in m.imports
        if name.count(".") >= 1 and name.split(".")[1] in rooms
    }
    return {(a, b) for a, b in pairs if a != b and "__init__" not in (a, b)}


def cycles(pairs: set[tuple[str, str]]) -> list[str]:
    """Rooms that import each other, directly or over others; empty where there is an order."""
    left = set(pairs)
    while True:
        sinks = {b for _, b in left} - {a for a, _ in left}
        sources = {a for a, _ in left} - {b for _, b in left}
        kept = {(a, b) for a, b in left if b not in sinks and a not in sources}
        if kept == left:
            return sorted({room for pair in left for room in pair})
        left = kept


def table() -> str:
    """What the code measures, as Markdown."""
    found = modules()
    functions = [f for m in found for f in m.functions]
    pairs = arrows(found)
    rooms = {m.room for m in found} - {"__init__"}
    method = sum(m.code_lines for m in found if m.room in METHOD)
    rows = [
        ("code lines of `lsfa_lib`", sum(m.code_lines for m in found)),
        ("modules", len(found)),
        ("code lines of the method (" + ", ".join(METHOD) + ")", method),
        ("rooms directly under `lsfa_lib`", len(rooms)),
        ("arrows between rooms", len(pairs)),
        ("rooms in a cycle", ", ".join(cycles(pairs)) or "none"),
        ("functions over 30 body lines", sum(f.lines > 30 for f in functions)),
        ("body lines, 90th percentile", round(quantiles([f.lines for f in functions], n=10)[-1])),
        ("functions with over 5 parameters", sum(f.parameters > 5 for f in functions)),
        ("modules over 250 raw lines", sum(m.raw_lines > 250 for m in found)),
    ]
    lines = ["| measure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    by_room = Counter[str]()
    for m in found:
        by_room[m.room] += m.code_lines
    lines += ["", "| room | code lines |", "|---|---|"]
    lines += [f"| {room} | {count} |" for room, count in sorted(by_room.items())]
    if "--long" in sys.argv:
        lines += [""] + [
            f"{m.path.relative_to(PACKAGE)}: {f.name}: {f.lines} lines, {f.parameters} parameters"
            for m in found
            for f in m.functions
            if f.lines > 30 or f.parameters > 5
        ]
        lines += [
            f"{m.path.relative_to(PACKAGE)}: {m.raw_lines} lines"
            for m in found
            if m.raw_lines > 250
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
