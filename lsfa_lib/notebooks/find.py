"""Where notebooks are and which parameters they declare; imports nothing that runs one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from lsfa_lib.storage.files import CHECKOUT, InputError

FOLDERS = (CHECKOUT / "notebooks", Path("notebooks"))


def find_notebook(name: str, start: Path | None = None) -> Path:
    """`notebooks/<name>.ipynb` of the checkout, or of the working folder.

    A name that ends in .ipynb is a path, relative to `start` or to the working folder.
    """
    if name.endswith(".ipynb"):
        path = (start or Path()) / name
        if path.exists():
            return path
        raise InputError(f"{path} was not found; give the notebook's path from {path.parent}")
    for folder in FOLDERS:
        if (folder / f"{name}.ipynb").exists():
            return folder / f"{name}.ipynb"
    raise InputError(f"notebooks/{name}.ipynb was not found; run from the project's folder")


def notebook_names() -> list[str]:
    """Names of the project's notebooks."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.ipynb")})


def code_of(notebook: Path) -> list[tuple[str, list[str]]]:
    """(source, tags) of each code cell. Raises InputError for a file that is no notebook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [
            ("".join(cell["source"]), cell["metadata"].get("tags", []))
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{notebook} is not a readable notebook; save it again") from error


def parameters_of(notebook: Path) -> dict[str, str]:
    """Names of the parameters a notebook declares, with their types; "" where none is given.

    They are the assignments in its cell tagged `parameters`.
    """
    found: dict[str, str] = {}
    tagged = "\n".join(source for source, tags in code_of(notebook) if "parameters" in tags)
    try:
        statements = ast.parse(tagged).body
    except SyntaxError as error:
        raise InputError(f"{notebook}: its parameters cell is not Python ({error})") from error
    for node in statements:
        if isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign):
            found |= {ast.unparse(target): "" for target in node.targets}
    return found
