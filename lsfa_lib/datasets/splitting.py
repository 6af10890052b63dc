"""Training scans moved to validation, where a tree has none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from lsfa_lib.datasets.categories import EYECANDIES, layout_of
from lsfa_lib.datasets.entry import LEAST_VALIDATION, Entry
from lsfa_lib.datasets.layouts import entries
from lsfa_lib.storage.files import InputError, unwritable


def drawn_scans(root: Path, category: str, share: float, seed: int) -> list[Entry]:
    """The training scans that a seed draws for validation, at least two, in their order.

    Raises InputError if the share leaves nothing to train on, or the layout has fixed splits.
    """
    train = entries(root, category, "train")
    if layout_of(root / category) == EYECANDIES:
        raise InputError(f"{root / category}: Eyecandies has a validation split; unpack it again")
    count = max(LEAST_VALIDATION, round(share * len(train)))
    if not 0 < share < 1 or count >= len(train):
        raise InputError(
            f"{root / category}: {count} of {len(train)} training scans for validation leave too "
            "few to train on; give a share between 0 and 1, or capture more good parts"
        )
    order = np.random.default_rng(seed).permutation(len(train))[:count]
    return [train[i] for i in sorted(order.tolist())]


def move_to_validation(scans: list[Entry]) -> None:
    """Moves the files of training scans to validation/good, under the same names.

    Raises InputError, before anything is moved, if one of the names is taken there.
    """
    moves = [
        [(file, _target(file)) for file in (*scan.files, scan.gt) if file is not None]
        for scan in scans
    ]
    for source, target in (pair for files in moves for pair in files):
        if target.exists() and not source.samefile(target):
            raise InputError(f"{target}: there is a scan of this name already; rename {source}")
    for files in moves:
        # A scan is complete in one of the splits at any moment.
        for source, target in files:
            _place(source, target)
        for source, _ in files:
            source.unlink()


def _target(file: Path) -> Path:
    split = file.parents[2]
    return split.parent / "validation" / file.relative_to(split)


def _place(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return
        if source.is_symlink():
            target.symlink_to(source.resolve())
            return
        try:
            os.link(source, target)
        except OSError:  # a file system without hard links
            shutil.copy2(source, target)
    except OSError as error:
        raise unwritable(target, error) from error
