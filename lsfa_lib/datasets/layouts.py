"""Scans on disk, in whichever of the known layouts; nothing here changes a file.

A category is in the layout of Eyecandies where it has `train/data` or `test_public/data`, in that
of MVTec 3D-AD where it has another `train` or `test` folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import overload

from lsfa_lib.config import DataConfig
from lsfa_lib.datasets import eyecandies, mvtec3d
from lsfa_lib.datasets.categories import EYECANDIES, MVTEC3D, categories, layout_of
from lsfa_lib.datasets.entry import Entry, SplitName
from lsfa_lib.records import Scan
from lsfa_lib.storage.files import InputError


@dataclass(frozen=True)
class Split:
    """The scans of one split, sorted by (kind, stem), each read from disk when it is asked for.

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
    """The scans of one split of the data set a config names."""
    return read_split(Path(data.root), category, split, data.light)


def entries(
    root: Path, category: str, split: SplitName, light: int = eyecandies.LIGHT
) -> list[Entry]:
    """Names and files of one split sorted by (kind, stem), `good` in its alphabetical place.

    `light` chooses among the pictures of Eyecandies. Raises InputError for an unknown category, an
    empty split and a scan without all its files.
    """
    there = categories(root)
    if category not in there:
        raise InputError(
            f"{root / category}: no such category; {root} holds {', '.join(there)}: choose one"
        )
    found, problems = pair_files(root, category, split, light)
    if problems:
        more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    return found


def pair_files(
    root: Path, category: str, split: SplitName, light: int = eyecandies.LIGHT
) -> tuple[list[Entry], list[str]]:
    """Complete entries of a split, and a sentence for each thing that keeps others from being so.

    Files are paired by stem, so that one lost file cannot shift all that sort behind it.
    """
    if layout(root / category) is eyecandies:
        return eyecandies.pair_files(root, category, split, light)
    return mvtec3d.pair_files(root, category, split)


def read_scan(entry: Entry) -> Scan:
    """The scan of `entry`. Raises InputError where a file is broken or not of the published form.

    Ground truth is True where the file is not 0: the values 253, 254 and 255 all occur.
    """
    return (eyecandies if entry.depth_bounds else mvtec3d).read_scan(entry)


def layout(category: Path) -> ModuleType | None:
    """The module that reads this category; None where the folder is none."""
    return {EYECANDIES: eyecandies, MVTEC3D: mvtec3d}.get(layout_of(category))
