"""Which file is what, by its folder or by a word in its name; case and separators do not matter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

FILE_WORDS = {
    **dict.fromkeys(("rgb", "color", "colour", "texture", "intensity"), "colour"),
    **dict.fromkeys(("depth", "depthmap", "xyz", "points"), "depth"),
    **dict.fromkeys(("mask", "gt"), "mask"),
    **{"cloud": "cloud", "confidence": "unused"},
}
"""Role of a file by a word of its stem; a file without one is colour."""
LAST = FILE_WORDS | {
    **dict.fromkeys(("label", "seg", "segmentation", "annotation"), "mask"),
    **dict.fromkeys(("infrared", "normals"), "unused"),
}
"""Role by the last word of a stem."""
NUMBERED = FILE_WORDS | {"left": "colour"}
"""Role by a word that a number follows at once, such as `depth000012`, as the ZED writes them."""
WORDS = FILE_WORDS | {
    **dict.fromkeys(("colors", "colours", "image", "images", "img"), "colour"),
    **dict.fromkeys(("depths", "pointcloud"), "depth"),
    **dict.fromkeys(("masks", "ground_truth", "groundtruth", "label", "labels"), "mask"),
    **dict.fromkeys(("clouds", "ply", "pcd"), "cloud"),
}
"""Role of all files of a folder of this name."""
SUFFIXES = {
    "colour": (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    "depth": (".png", ".tif", ".tiff", ".exr", ".npy", ".raw"),
    "mask": (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    "cloud": (".pcd", ".ply"),
    "unused": (),
}
_SEPARATORS = re.compile(r"([_\-. ]+)")


def key(stem: str) -> str:
    """What two files of one scan have in common: the stem without case, each separator as `_`."""
    # Some systems write an umlaut as two characters.
    return _SEPARATORS.sub("_", unicodedata.normalize("NFC", stem).casefold())


def role_of(path: Path, source: Path, known: Collection[str] = ()) -> tuple[str, str]:
    """Role of a file in the folder `source` or in one of its folders, and the stem of its scan.

    A word inside the stem counts only if the complete stem is not among the `known` ones, the
    keys of scans found by `stated_role`.
    """
    role, stem = stated_role(path, source)
    if not role and key(stem) not in known:
        role, stem = _inside(stem)
    return role or "colour", stem or source.resolve().name


def stated_role(path: Path, source: Path) -> tuple[str, str]:
    """Role of a file by its folder, its suffix or the last word of its stem; "" by none."""
    folder = "" if path.parent == source else WORDS.get(path.parent.name.casefold(), "")
    role, stem = _ending(path.stem)
    if path.suffix.lower() in SUFFIXES["cloud"]:
        return "cloud", stem
    if folder:
        # masks/000_mask.png and masks/mask_000.png are named twice.
        for named, own in ((role, stem), _inside(path.stem)):
            if named == folder and own:
                return folder, own
        return folder, path.stem
    return role, stem


def _ending(stem: str) -> tuple[str, str]:
    """Role by the last word of a stem, and the stem without it."""
    parts = _SEPARATORS.split(stem)
    role = LAST.get(parts[-1].casefold(), "")
    return (role, "".join(parts[:-2])) if role else ("", stem)


def _inside(stem: str) -> tuple[str, str]:
    """Role by the only such word of a stem, and the stem without it."""
    if (glued := re.fullmatch(r"([^\W\d_]+)(\d+)", stem)) and glued[1].casefold() in NUMBERED:
        return NUMBERED[glued[1].casefold()], glued[2]
    parts = _SEPARATORS.split(stem)
    places = [i for i, part in enumerate(parts) if part.casefold() in FILE_WORDS]
    if len(places) != 1 or len(parts) == 1:
        return "", stem
    (place,) = places
    return FILE_WORDS[parts[place].casefold()], "".join(parts[:place] + parts[place + 2 :])
