"""The files of one scan, in any layout, and which of them are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lsfa_lib.config import MODALITIES
from lsfa_lib.datasets.names import key

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
LEAST_VALIDATION = 2
"""One score has no spread."""


@dataclass(frozen=True)
class Entry:
    """The files of one scan, none of them read yet."""

    name: str
    """`<category>/<split>/<kind>/<stem>`."""
    kind: str
    """`good`, or the name of its defects."""
    rgb: Path | None
    """None for points without colour."""
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
    def path(self) -> Path:
        """The xyz file, or the image if there is none; for error messages."""
        found = self.xyz or self.rgb
        assert found is not None
        return found

    @property
    def modalities(self) -> tuple[str, ...]:
        """What was captured."""
        captured = {"3d": self.xyz, "rgb": self.rgb}
        return tuple(m for m in MODALITIES if captured[m])


def visible(folder: Path) -> list[Path]:
    """The contents of `folder`, sorted, without hidden files; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def too_few_validation(scans: int) -> str:
    """A sentence on a validation split that has too few scans for scale and threshold."""
    return (
        f"{scans} validation/good scans, at least {LEAST_VALIDATION} are needed to set scale and "
        "threshold; move some training scans there with `lsfa data split`"
    )


def seen(folder: Path) -> str:
    """The first names in a folder, for a sentence about one that is missing."""
    names = [path.name for path in visible(folder)][:6]
    return f" (seen: {', '.join(names)})" if names else ""


def no_scans(folder: Path, example: str) -> str:
    """A sentence on a split without scans."""
    others = "" if folder.is_dir() else seen(folder.parent)
    if {"validation", "val"} & {folder.name, folder.parent.name}:
        return (
            f"{folder}: no scans in here{others}; {too_few_validation(0)}, or add files such as "
            f"{example}"
        )
    return f"{folder}: no scans in here{others}; give it at least one, as {example}"


def missing_partners(files: Mapping[str, Path], expected: Mapping[str, Path]) -> str:
    """A sentence if a scan that has `files` lacks any of the `expected` ones, by role; else ""."""
    missing = [path for role, path in expected.items() if role not in files]
    if not missing:
        return ""
    # One of another type, or whose name differs in case or separators.
    near = [
        str(other)
        for path in missing
        for other in visible(path.parent)
        if key(other.stem) == key(path.stem)
    ]
    found = f"{' and '.join(near)} was found, which is not read under this name; " if near else ""
    return (
        f"{next(iter(files.values()))}: its partner {' and '.join(map(str, missing))} is missing; "
        f"{found}restore it, or remove the scan's other files"
    )
