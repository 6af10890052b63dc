"""One scan by its files, whichever layout they lie in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Shaped

from lsfa_lib.storage.files import InputError

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Entry:
    """One scan by its files, no pixel read yet."""

    name: str
    """`<category>/<split>/<kind>/<stem>`."""
    kind: str
    """`good`, or what its defects are called."""
    rgb: Path
    xyz: Path
    """Points, or the depths they follow from."""
    gt: Path | None
    """None where no pixel is defective."""
    depth_bounds: Path | None = None
    """Eyecandies: what the ends of its depths' scale stand for."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that features of this scan follow from."""
        return (self.rgb, self.xyz, *([self.depth_bounds] if self.depth_bounds else []))


def visible(folder: Path) -> list[Path]:
    """What `folder` holds, sorted, without hidden files; nothing where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def unreadable(path: Path, error: Exception) -> InputError:
    """What to tell of a file that cannot be decoded."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file; it was moved or removed, restore it")
    if path.is_file() and path.stat().st_size == 0:
        return InputError(f"{path}: the file is empty; restore the original")
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return InputError(
        f"{path}: cannot be decoded ({reason}), it may be cut short; restore the original"
    )


def require_one_size(
    xyz: Path, points: Shaped[np.ndarray, "H W 3"], path: Path | None, array: np.ndarray
) -> None:
    """Raises InputError where another file of a scan is not as large as its points."""
    if array.shape[:2] != points.shape[:2]:
        raise InputError(
            f"{path}: {_size(array)} px, but {xyz} is {_size(points)} px; "
            f"restore the original, the files of a scan have one size"
        )


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
