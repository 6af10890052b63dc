"""Scans on disk, in any of the known layouts; nothing here changes a file.

A category is in the layout of Eyecandies if it has `train/data` or `test_public/data`, and in that
of MVTec 3D-AD if it has any other `train` or `test` folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from lsfa_lib.config import DataConfig
from lsfa_lib.datasets import eyecandies, mvtec3d
from lsfa_lib.datasets.categories import EYECANDIES, categories, layout_of
from lsfa_lib.datasets.entry import Entry, SplitName
from lsfa_lib.datasets.image_files import read_gt, read_rgb, require_size
from lsfa_lib.datasets.relief import shaded_depth
from lsfa_lib.records import Points, Scan
from lsfa_lib.storage.files import InputError


@dataclass(frozen=True)
class Split:
    """The scans of one split, sorted by (kind, stem), each read from disk on access.

    A real category holds hundreds of frames of 10 MB; one is in memory at a time.
    """

    entries: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Scan]:
        return map(read_scan, self.entries)

    @overload
    def __getitem__(self, index: int) -> Scan: ...
    @overload
    def __getitem__(self, index: slice) -> Split: ...
    def __getitem__(self, index: int | slice) -> Scan | Split:
        if isinstance(index, slice):
            return Split(self.entries[index])
        return read_scan(self.entries[index])


def read_split(root: Path, category: str, split: SplitName, light: int = eyecandies.LIGHT) -> Split:
    """The scans of one split, read one by one; order and errors as in `entries`."""
    return Split(tuple(entries(root, category, split, light)))


def split_of(data: DataConfig, category: str, split: SplitName) -> Split:
    """The scans of one split of the data set in a config."""
    return read_split(Path(data.root), category, split, data.light)


def entries(
    root: Path, category: str, split: SplitName, light: int = eyecandies.LIGHT
) -> list[Entry]:
    """Names and files of one split sorted by (kind, stem), `good` in its alphabetical place.

    `light` selects one of the images of Eyecandies. Raises InputError for an unknown category, an
    empty split and an incomplete scan.
    """
    known = categories(root)
    if category not in known:
        raise InputError(
            f"{root / category}: no such category; {root} holds {', '.join(known)}: choose one"
        )
    found, problems = pair_files(root, category, split, light)
    if problems:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return found


def pair_files(
    root: Path, category: str, split: SplitName, light: int = eyecandies.LIGHT
) -> tuple[list[Entry], list[str]]:
    """The complete scans of a split, and a sentence for each problem with any other.

    Files are paired by stem, so that one lost file cannot shift all that sort after it.
    """
    if layout_of(root / category) == EYECANDIES:
        items = list(eyecandies.pair_files(root, category, split, light))
    else:
        items = list(mvtec3d.pair_files(root, category, split))
    found = [item for item in items if isinstance(item, Entry)]
    problems = [item for item in items if isinstance(item, str)]
    return sorted(found, key=lambda entry: (entry.kind, entry.name)), problems


def read_scan(entry: Entry) -> Scan:
    """The scan of `entry`. Raises InputError if a file is damaged or not in the published form."""
    rgb = read_rgb(entry.rgb) if entry.rgb else None
    xyz = _points(entry)
    if xyz is None:
        assert rgb is not None
        xyz = np.zeros(rgb.shape, np.float32)
    elif rgb is None:
        rgb = shaded_depth(xyz)
    require_size(entry.rgb or entry.path, rgb, entry.path, xyz)
    defect = np.zeros(rgb.shape[:2], bool)
    if entry.gt:
        defect = read_gt(entry.gt)
        require_size(entry.gt, defect, entry.path, xyz)
    return Scan(rgb, xyz, defect, entry.name, entry.kind, entry.path, entry.modalities)


def _points(entry: Entry) -> Points | None:
    """The points of a scan; None of an image without 3D."""
    if not entry.xyz:
        return None
    if entry.depth_bounds:
        return eyecandies.read_points(entry.xyz, entry.depth_bounds)
    return mvtec3d.read_points(entry.xyz)


def odd_files(category: Path) -> list[Path]:
    """Files of a category that belong to no scan."""
    layout = eyecandies if layout_of(category) == EYECANDIES else mvtec3d
    return [
        path
        for folder in layout.FOLDERS
        for path in sorted((category / folder).rglob("*"))
        if path.is_file() and not layout.is_scan_file(path, category)
    ]
