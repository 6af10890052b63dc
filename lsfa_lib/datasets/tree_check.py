"""What a data set on disk holds, and everything in it that would stop a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsfa_lib.config import PreprocessConfig
from lsfa_lib.datasets import eyecandies
from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName
from lsfa_lib.datasets.layouts import categories, layout, pair_files, read_scan
from lsfa_lib.records import UNLABELLED, Scan
from lsfa_lib.storage.files import InputError, progress

PLAUSIBLE_M = (0.02, 20.0)
"""Distances scanners work at; millimetres taken for metres are far beyond."""
PUBLISHED_COUNTS: dict[str, tuple[int, int, int, int]] = {
    "bagel": (244, 22, 22, 88),
    "cable_gland": (223, 23, 21, 87),
    "carrot": (286, 29, 27, 132),
    "cookie": (210, 22, 28, 103),
    "dowel": (288, 34, 26, 104),
    "foam": (236, 27, 20, 80),
    "peach": (361, 42, 26, 106),
    "potato": (300, 33, 22, 92),
    "rope": (298, 33, 32, 69),
    "tire": (210, 29, 25, 87),
}
"""train, validation, test good, test anomalous; sums 2656, 294, 249, 948 (arXiv 2112.09045)."""
EYECANDIES_COUNTS = dict.fromkeys(eyecandies.CLASSES, (1000, 100, 25, 25))
"""The same of Eyecandies, `test_public` as test (arXiv 2210.04570)."""
DATA_SETS = {"MVTec 3D-AD": PUBLISHED_COUNTS, "Eyecandies": EYECANDIES_COUNTS}


@dataclass(frozen=True)
class SplitSummary:
    """What one split of one category holds."""

    category: str
    split: SplitName
    kinds: dict[str, int]
    """Readable scans of each kind."""
    sizes: tuple[tuple[int, int], ...]
    """Every (width, height) that occurs, px."""
    distances_m: tuple[float, float]
    """From the camera to the nearest and to the farthest point; NaN where no scan was read."""

    @property
    def good(self) -> int:
        """Scans without a defect."""
        return self.kinds.get("good", 0)

    @property
    def anomalous(self) -> int:
        """Scans with a defect."""
        return sum(self.kinds.values()) - self.good - self.kinds.get(UNLABELLED, 0)


@dataclass(frozen=True)
class Report:
    """The state of a tree. It is fit for use where `problems` is empty."""

    root: Path
    splits: tuple[SplitSummary, ...]
    published: str
    """The public data set all of whose categories are there, its counts compared; "" for none."""
    problems: tuple[str, ...]
    """One sentence each, with the file's name and the way out."""
    odd_files: tuple[Path, ...]
    """Files in the scans' folders that no scan uses; harmless."""


def check_tree(root: Path) -> Report:
    """Counts, sizes and problems of the tree under `root`; reads every file once, one at a time.

    Raises InputError only where there is no category at all.
    """
    problems: list[str] = []
    summaries: list[SplitSummary] = []
    there = categories(root)
    for category in there:
        stripped: list[Path] = []
        seen = 0
        for split in SPLITS:
            found, unpaired = pair_files(root, category, split)
            problems += unpaired
            kinds: dict[str, int] = {}
            sizes: set[tuple[int, int]] = set()
            near, far = math.nan, math.nan
            for entry in progress(found, f"{category} {split}"):
                scan = _read_or_note(entry, problems)
                if scan is not None:
                    kinds[scan.kind] = kinds.get(scan.kind, 0) + 1
                    sizes.add((scan.xyz.shape[1], scan.xyz.shape[0]))
                    stripped += [entry.xyz] if border_is_empty(scan) else []
                    distances = np.linalg.norm(scan.xyz[np.any(scan.xyz != 0, axis=2)], axis=1)
                    problems += _unit_problem(entry.xyz, float(np.median(distances)))
                    near = float(np.fmin(near, distances.min()))
                    far = float(np.fmax(far, distances.max()))
                    seen += 1
            found_sizes = tuple(sorted(sizes))
            summaries.append(SplitSummary(category, split, kinds, found_sizes, (near, far)))
        problems += _stripped_problems(root / category, stripped, seen)
    published = next((name for name, counts in DATA_SETS.items() if set(counts) <= set(there)), "")
    if published:
        problems += _compare_published(root, summaries, published)
    odd = tuple(path for category in there for path in _odd_files(root / category))
    return Report(root, tuple(summaries), published, tuple(problems), odd)


def border_is_empty(scan: Scan, border_px: int = PreprocessConfig().border_px) -> bool:
    """True where no pixel of the four border strips was measured.

    The published scans show the background plane there. Tools that remove the plane and pad to a
    square in place, in the original files, leave zeros.
    """
    measured = np.any(scan.xyz != 0, axis=2)
    inside = np.zeros_like(measured)
    inside[border_px:-border_px, border_px:-border_px] = True
    return not np.any(measured & ~inside)


def _unit_problem(path: Path, median_m: float) -> list[str]:
    """A sentence for a scan whose coordinates cannot be metres from a camera."""
    if PLAUSIBLE_M[0] <= median_m <= PLAUSIBLE_M[1]:
        return []
    return [
        f"{path}: half of its points are within {median_m:.3g} of the camera, which cannot be "
        "metres; write coordinates in metres"
    ]


def _stripped_problems(category: Path, stripped: list[Path], seen: int) -> list[str]:
    """One sentence for a category where most scans lack their background, else one a scan."""
    reason = (
        "no reading along the border where the background should be; preprocessed in place by "
        "another tool, it seems: restore the original"
    )
    if len(stripped) > seen / 2:
        return [f"{category}: {len(stripped)} of {seen} scans have {reason} files"]
    return [f"{path}: {reason} file" for path in stripped]


def _read_or_note(entry: Entry, problems: list[str]) -> Scan | None:
    """The scan, or None and its problem noted."""
    try:
        scan = read_scan(entry)
    except InputError as error:
        problems.append(str(error))
        return None
    if scan.kind != UNLABELLED and scan.defect.any() == (scan.kind == "good"):
        count = np.count_nonzero(scan.defect)
        problems.append(
            f"{entry.gt}: marks {count} pixels as defective in a scan of kind {scan.kind}; "
            f"restore the original, or move the scan to the right folder"
        )
    return scan


def _compare_published(root: Path, summaries: list[SplitSummary], name: str) -> list[str]:
    """A sentence for each split whose counts are not those of the paper."""
    problems = []
    counts = DATA_SETS[name]
    for summary in summaries:
        if summary.category not in counts:
            continue
        train, validation, good, anomalous = counts[summary.category]
        wanted = {"train": (train, 0), "validation": (validation, 0), "test": (good, anomalous)}
        if (summary.good, summary.anomalous) != wanted[summary.split]:
            problems.append(
                f"{root / summary.category / summary.split}: {summary.good} good and "
                f"{summary.anomalous} anomalous scans can be read, {name} has "
                f"{wanted[summary.split][0]} and {wanted[summary.split][1]}; "
                f"unpack the archive again"
            )
    return problems


def _odd_files(category: Path) -> list[Path]:
    """Files of a category that belong to no scan."""
    module = layout(category)
    return module.odd_files(category) if module else []
