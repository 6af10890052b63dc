"""The categories in a folder; reads no scan and imports no library that could."""

from __future__ import annotations

from pathlib import Path

from lsfa_lib.datasets.entry import visible
from lsfa_lib.storage.files import InputError

EYECANDIES, MVTEC3D = "eyecandies", "mvtec3d"


def categories(root: Path) -> list[str]:
    """Names of the categories in `root`: its folders that are in one of the layouts."""
    if not root.is_dir():
        remedy = "give the folder that holds the categories"
        if root.name == MVTEC3D:
            remedy += ", or download MVTec 3D-AD to data/mvtec3d with `lsfa data download mvtec3d`"
        raise InputError(
            f"{root}: no such folder; {remedy}" + _contents(root.parent, "its parent holds")
        )
    found = sorted(folder.name for folder in root.iterdir() if layout_of(folder))
    if not found:
        raise InputError(
            f"{root}: no category in here (a folder with `train` and `test` in it); "
            f"give the folder that holds the categories" + _contents(root, "this one holds")
        )
    return found


def layout_of(category: Path) -> str:
    """Name of the layout of a category's folder; "" if it is in none."""
    if any((category / split / "data").is_dir() for split in ("train", "test_public")):
        return EYECANDIES
    return MVTEC3D if any((category / split).is_dir() for split in ("train", "test")) else ""


def _contents(folder: Path, lead: str) -> str:
    names = [path.name for path in visible(folder) if path.is_dir()][:12]
    return f"; {lead} {', '.join(names)}" if names else ""
