"""The files of one scan, in any layout, and which of them are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lsfa_lib.config import MODALITIES

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Entry:
    """The files of one scan, none of them read yet."""

    name: str
    """`<category>/<split>/<kind>/<stem>`."""
    kind: str
    """`good`, or the name of its defects."""
    rgb: Path
    xyz: Path | None
    """Points, or the depths from which they are computed; None for an image without 3D."""
    gt: Path | None
    """None if no pixel is defective."""
    depth_bounds: Path | None = None
    """Eyecandies: the depths at both ends of the scale of its depth image."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files on which the features of this scan depend."""
        return tuple(file for file in (self.rgb, self.xyz, self.depth_bounds) if file)

    @property
    def modalities(self) -> tuple[str, ...]:
        """What was captured."""
        return MODALITIES if self.xyz else ("rgb",)


def visible(folder: Path) -> list[Path]:
    """The contents of `folder`, sorted, without hidden files; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def missing_partners(files: Mapping[str, Path], expected: Mapping[str, Path]) -> str:
    """A sentence if a scan that has `files` lacks any of the `expected` ones, by role; else ""."""
    missing = [str(path) for role, path in expected.items() if role not in files]
    if not missing:
        return ""
    return (
        f"{next(iter(files.values()))}: its partner {' and '.join(missing)} is missing; "
        "restore it, or remove the scan's other files"
    )
