"""Which categories a folder holds; reads no scan and needs no library that could."""

from __future__ import annotations

from pathlib import Path

from lsfa_lib.datasets.entry import visible
from lsfa_lib.storage.files import InputError

EYECANDIES, MVTEC3D = "eyecandies", "mvtec3d"


def categories(root: Path) -> list[str]:
    """Names of the categories in `root`: its folders that are in one of the layouts."""
    if not root.is_dir():
        way = "give the folder that holds the categories"
        if root.name == MVTEC3D:
            way += ", or download MVTec 3D-AD to data/mvtec3d with `lsfa data download mvtec3d`"
        raise InputError(
            f"{root}: no such folder; {way}" + _those_there(root.parent, "its parent holds")
        )
    found = sorted(folder.name for folder in root.iterdir() if layout_of(folder))
    if not found:
        raise InputError(
            f"{root}: no category in here (a folder with `train` and `test` in it); "
            f"give the folder that holds the categories" + _those_there(root, "this one holds")
        )
    return found


def layout_of(category: Path) -> str:
    """Name of the layout a category's folder is in; "" where it is in none."""
    if any((category / split / "data").is_dir() for split in ("train", "test_public")):
        return EYECANDIES
    return MVTEC3D if any((category / split).is_dir() for split in ("train", "test")) else ""


def _those_there(folder: Path, lead: str) -> str:
    names = [path.name for path in visible(folder) if path.is_dir()][:12]
    return f"; {lead} {', '.join(names)}" if names else ""
