"""Means of a study's cells over categories and seeds, with the same bootstrap draws for all."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
from jaxtyping import Bool, Float

from lsfa_lib.evaluation.bootstrap import Measured, draws, resampled, with_interval
from lsfa_lib.figures.findings import Result, labelled, number
from lsfa_lib.storage.study_record import Key, StudyRecord

Sample = tuple[float, Float[np.ndarray, " B"]]
"""A mean, and its value in each resample."""


class Means:
    """Means over categories of means over seeds; cells that are compared share their resamples.

    Without a grid a seed stands for training and coreset together, and all cells share the drawn
    seeds. With one, training seeds are drawn for each cell by itself, and points of the grid, such
    as coreset seeds, for all.
    """

    def __init__(self, about: StudyRecord, results: dict[Key, Result], seed: int) -> None:
        self.results, self.categories, self.cells = results, about.categories, list(about.cells)
        seeds, points = about.seeds, range(len(about.grid))
        self.trials = [[(s, p) for p in points] for s in seeds]
        if len(points) == 1:
            self.trials = [[(s, 0) for s in seeds]]
        self.count = len(seeds) * len(points)
        self.drawn = draws([self._defective(category) for category in self.categories], seed)
        self.measured = cache(self._measured)
        self.of = cache(self._of)

    def complete(self, cell: str, mode: str) -> tuple[str, ...]:
        """Categories in which the cell was finished with every seed, and has the mode."""
        found = Counter(
            category
            for (own, category, *_), result in self.results.items()
            if own == cell and mode in result["modes"]
        )
        return tuple(category for category in self.categories if found[category] == self.count)

    def _of(self, cell: str, mode: str, metric: str, categories: tuple[str, ...]) -> Sample:
        """The cell's mean over these categories."""
        found = self.measured(cell, mode, metric, categories)
        places = [self.categories.index(category) for category in categories]
        # Where all share the drawn seeds, no variant has a stream of its own.
        variant = self.cells.index(cell) if len(self.trials) > 1 else 0
        drawn = resampled(found, metric, self.drawn, variant, places)
        return float(found.values[metric].mean()), drawn

    def difference(
        self, name: str, own: tuple[str, str], other: tuple[str, str]
    ) -> dict[str, float]:
        """`name` with its interval: what one (cell, mode) has more than another; {} for no pair."""
        both = tuple(c for c in self.complete(*own) if c in self.complete(*other))
        if not both:
            return {}
        metric = name.partition("_")[2]
        (mean, drawn), (base, base_drawn) = (self.of(*pair, metric, both) for pair in (own, other))
        return with_interval(name, mean - base, drawn - base_drawn)

    def deviation(self, cell: str, mode: str, metric: str, categories: tuple[str, ...]) -> float:
        """Standard deviation of the mean over categories between seeds; NaN for one."""
        by_seed = self.measured(cell, mode, metric, categories).values[metric].mean(0)
        return float(by_seed.std(ddof=1)) if by_seed.size > 1 else float("nan")

    def _measured(self, cell: str, mode: str, metric: str, categories: tuple[str, ...]) -> Measured:
        runs = [
            [[self.results[cell, category, *trial] for trial in same] for same in self.trials]
            for category in categories
        ]
        values = np.array(
            [[[number(r["modes"][mode][metric]) for r in s] for s in c] for c in runs]
        )
        scores = [
            np.array([[[scan["scores"][mode] for scan in labelled(r)] for r in s] for s in c])
            for c in runs
        ]
        return Measured({metric: values}, scores)

    def _defective(self, category: str) -> Bool[np.ndarray, " n"]:
        """Which test scans are defective; none for a category without a finished run."""
        for (_, name, *_), result in self.results.items():
            if name == category:
                return np.array([scan["defective"] for scan in labelled(result)], bool)
        return np.array([False, True])
