"""The contents of a data set on disk, and every problem in it that would stop a run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsfa_lib.config import PreprocessConfig
from lsfa_lib.datasets.entry import SPLITS, Entry, SplitName
from lsfa_lib.datasets.layouts import categories, odd_files, pair_files, read_scan
from lsfa_lib.records import UNLABELLED, Scan
from lsfa_lib.storage.files import InputError, progress

PLAUSIBLE_M = (0.02, 20.0)
"""Working distances of scanners; millimetres read as metres are far beyond."""
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
EYECANDIES_COUNTS = dict.fromkeys(
    (
        *("CandyCane", "ChocolateCookie", "ChocolatePraline", "Confetto", "GummyBear"),
        *("HazelnutTruffle", "LicoriceSandwich", "Lollipop", "Marshmallow", "PeppermintCandy"),
    ),
    (1000, 100, 25, 25),
)
"""The same for Eyecandies, `test_public` as test (arXiv 2210.04570)."""
DATA_SETS = {"MVTec 3D-AD": PUBLISHED_COUNTS, "Eyecandies": EYECANDIES_COUNTS}


@dataclass(frozen=True)
class SplitSummary:
    """The readable scans of one split of one category."""

    category: str
    split: SplitName
    kinds: dict[str, int]
    """Number of scans of each kind."""
    sizes: tuple[tuple[int, int], ...]
    """Every (width, height) that occurs, px."""
    distances_m: tuple[float, float]
    """From the camera to the nearest and to the farthest point; NaN if no scan was read."""

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
    """The state of a tree, which can be used if `problems` is empty."""

    root: Path
    splits: tuple[SplitSummary, ...]
    published: str
    """The public data set whose categories all exist and whose counts were compared; "" if none."""
    problems: tuple[str, ...]
    """One sentence each, with the file's name and the remedy."""
    odd_files: tuple[Path, ...]
    """Files in the scans' folders that belong to no scan; harmless."""


def check_tree(root: Path) -> Report:
    """Counts, sizes and problems of the tree under `root`; reads every file once, one at a time.

    Raises InputError only if there is no category at all.
    """
    problems: list[str] = []
    summaries: list[SplitSummary] = []
    found = categories(root)
    for category in found:
        stripped: list[Path] = []
        splits = [_check_split(root, category, split, problems, stripped) for split in SPLITS]
        seen = sum(sum(split.kinds.values()) for split in splits)
        problems += _stripped_problems(root / category, stripped, seen)
        summaries += splits
    published = next((name for name, counts in DATA_SETS.items() if set(counts) <= set(found)), "")
    if published:
        problems += _compare_published(root, summaries, published)
    odd = tuple(path for category in found for path in odd_files(root / category))
    return Report(root, tuple(summaries), published, tuple(problems), odd)


def _check_split(
    root: Path, category: str, split: SplitName, problems: list[str], stripped: list[Path]
) -> SplitSummary:
    """Appends to `problems`, and to `stripped` the scans with an empty border."""
    found, unpaired = pair_files(root, category, split)
    problems += unpaired
    kinds, sizes, distances = Counter[str](), set(), []
    for entry in progress(found, f"{category} {split}"):
        try:
            scan = read_scan(entry)
        except InputError as error:
            problems.append(str(error))
            continue
        kinds[scan.kind] += 1
        sizes.add((scan.rgb.shape[1], scan.rgb.shape[0]))
        problems += _mask_problem(entry, scan)
        if "3d" not in scan.modalities:
            continue
        stripped += [scan.path] if border_is_empty(scan) else []
        lengths = np.linalg.norm(scan.xyz[np.any(scan.xyz != 0, axis=2)], axis=1)
        distances += [float(lengths.min()), float(lengths.max())]
        problems += _unit_problem(scan.path, float(np.median(lengths)))
    ends = (min(distances, default=math.nan), max(distances, default=math.nan))
    return SplitSummary(category, split, dict(kinds), tuple(sorted(sizes)), ends)


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
    """One sentence for a category if most scans lack their background, else one per scan."""
    reason = (
        "no reading along the border where the background should be; probably "
        "preprocessed in place by another tool; restore the original"
    )
    if len(stripped) > seen / 2:
        return [f"{category}: {len(stripped)} of {seen} scans have {reason} files"]
    return [f"{path}: {reason} file" for path in stripped]


def _mask_problem(entry: Entry, scan: Scan) -> list[str]:
    """A sentence for a good scan with a marked pixel, and for a defective one without."""
    if scan.kind == UNLABELLED or scan.defect.any() == (scan.kind != "good"):
        return []
    return [
        f"{entry.gt}: marks {np.count_nonzero(scan.defect)} pixels as defective in a scan of kind "
        f"{scan.kind}; restore the original, or move the scan to the right folder"
    ]


def _compare_published(root: Path, summaries: list[SplitSummary], name: str) -> list[str]:
    """A sentence for each split whose counts differ from the paper's."""
    problems = []
    for summary in summaries:
        if summary.category not in DATA_SETS[name]:
            continue
        train, validation, good, anomalous = DATA_SETS[name][summary.category]
        counts = {"train": (train, 0), "validation": (validation, 0), "test": (good, anomalous)}
        expected = counts[summary.split]
        if (summary.good, summary.anomalous) != expected:
            problems.append(
                f"{root / summary.category / summary.split}: {summary.good} good and "
                f"{summary.anomalous} anomalous scans can be read, {name} has {expected[0]} and "
                f"{expected[1]}; unpack the archive again"
            )
    return problems
