"""The contents of a data set on disk, and every problem in it that would stop a run."""

from __future__ import annotations

import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lsfa_lib.config import Config, DataConfig
from lsfa_lib.datasets.entry import LEAST_VALIDATION, SPLITS, SplitName, too_few_validation
from lsfa_lib.datasets.layouts import categories, odd_files, pair_files
from lsfa_lib.datasets.plane import NO_REMOVAL
from lsfa_lib.datasets.scan_check import check_scan
from lsfa_lib.records import UNLABELLED
from lsfa_lib.storage.files import progress

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
    colour: bool = True
    """False if the scans are points without colour."""

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
    warnings: tuple[str, ...] = ()
    """Sentences on scans that can be used, but hardly as they were meant."""
    options: str = ""
    """Command-line options that choose the config that the scans were prepared with."""

    @property
    def verdict(self) -> str:
        """One line: ready, or what to do first."""
        if self.problems:
            count = len(self.problems)
            return f"not ready: {count} problem(s), listed above; first: {self.problems[0]}"
        checked = f"; {len(self.warnings)} warning(s), listed above" if self.warnings else ""
        categories = list(dict.fromkeys(split.category for split in self.splits))
        alone = "" if all(split.colour for split in self.splits) else " --modalities 3d"
        ready = f"lsfa run {categories[0]} --data {self.root}{self.options}{alone}"
        return f"no problem found; ready: {ready}{checked}"


@dataclass
class _Found:
    """What the check of a category has found so far."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stripped: list[Path] = field(default_factory=list)
    """Scans with an empty border."""
    contents: dict[str, list[Path]] = field(default_factory=dict)
    """Scans by their content."""


def check_tree(root: Path, config: Config | None = None, options: str = "") -> Report:
    """Counts, sizes and problems of the tree under `root`, of which every file is read.

    With a config every scan is also prepared as a run would, which finds scans without a part;
    `options` choose this config on the command line.
    Raises InputError only if there is no category at all.
    """
    every = _Found()
    summaries: list[SplitSummary] = []
    found = categories(root)
    for category in found:
        own = _Found()
        splits = [_check_split(root / category, split, config, own) for split in SPLITS]
        seen = sum(sum(split.kinds.values()) for split in splits)
        every.problems += own.problems + _stripped_problems(root / category, own.stripped, seen)
        every.warnings += own.warnings + _copies(root / category, own.contents)
        summaries += splits
    published = next((name for name, counts in DATA_SETS.items() if set(counts) <= set(found)), "")
    if published:
        every.problems += _compare_published(root, summaries, published)
    aligned = config is not None and (config.training.weights.la or config.training.weights.ga)
    if aligned and all(math.isnan(split.distances_m[0]) for split in summaries):
        options += " --only none"  # without points there is nothing to align colour with
    odd = tuple(path for category in found for path in odd_files(root / category))
    problems, warnings = tuple(every.problems), tuple(every.warnings)
    return Report(root, tuple(summaries), published, problems, odd, warnings, options)


def _check_split(
    folder: Path, split: SplitName, config: Config | None, into: _Found
) -> SplitSummary:
    light = (config.data if config else DataConfig()).light
    found, unpaired = pair_files(folder.parent, folder.name, split, light)
    into.problems += unpaired
    if config and split == "validation" and found and len(found) < LEAST_VALIDATION:
        into.problems.append(f"{folder}: {too_few_validation(len(found))}")
    kinds, sizes = Counter[str](), set[tuple[int, int]]()
    distances: list[float] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = pool.map(partial(check_scan, config=config), found)
        for entry, scan in zip(
            found, progress(checks, f"{folder.name} {split}", len(found)), strict=True
        ):
            into.problems += scan.problems
            into.warnings += scan.warnings
            into.stripped += [entry.path] if scan.stripped else []
            if scan.digest:
                into.contents.setdefault(scan.digest, []).append(entry.path)
            distances += scan.distances_m
            if scan.kind:
                kinds[scan.kind] += 1
                sizes.add(scan.size)
    ends = (min(distances, default=math.nan), max(distances, default=math.nan))
    colour = not found or "rgb" in found[0].modalities
    return SplitSummary(folder.name, split, dict(kinds), tuple(sorted(sizes)), ends, colour)


def _copies(category: Path, contents: dict[str, list[Path]]) -> list[str]:
    """A sentence if scans of a category are copies of others."""
    copied = [paths for paths in contents.values() if len(paths) > 1]
    if not copied:
        return []
    count = sum(map(len, copied)) - len(copied)
    return [
        f"{category}: {count} of its scans are copies of others, such as {copied[0][1]} of "
        f"{copied[0][0]}; keep one of each, so that test scans are not training scans"
    ]


def _stripped_problems(category: Path, stripped: list[Path], seen: int) -> list[str]:
    """One sentence for a category if most scans lack their background, else one per scan."""
    reason = (
        "no reading along the border where the background should be; probably "
        "preprocessed in place by another tool; restore the original"
    )
    on_purpose = f", or, if it was removed on purpose, {NO_REMOVAL} (and check with --config)"
    if len(stripped) > seen / 2:
        return [f"{category}: {len(stripped)} of {seen} scans have {reason} files{on_purpose}"]
    return [f"{path}: {reason} file{on_purpose}" for path in stripped]


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
