"""Means of a study's cells over categories and seeds, with the same resamples for all.

Two cells are compared on the same test scans, so their difference is computed per resample.
I-AUROC resamples test scans and seeds; metrics of maps have Student's t interval over seeds.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
from jaxtyping import Bool, Float

from lsfa_lib.evaluation.bootstrap import (
    AREA,
    RESAMPLES,
    areas_under_roc,
    counts,
    half_width,
    with_interval,
    within,
)
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
        self.seed, rng = seed, np.random.default_rng(seed)
        self.defective = [self._defective(category) for category in self.categories]
        # How often each test scan is drawn; good and defective ones apart.
        self.good = [counts(rng, int((~each).sum())) for each in self.defective]
        self.bad = [counts(rng, int(each.sum())) for each in self.defective]
        self.values, self.of = cache(self._values), cache(self._of)

    def complete(self, cell: str, mode: str) -> tuple[str, ...]:
        """Categories in which the cell was finished with every seed, and has the mode."""
        found = Counter(
            category
            for (own, category, *_), result in self.results.items()
            if own == cell and mode in result["modes"]
        )
        return tuple(category for category in self.categories if found[category] == self.count)

    def _of(self, cell: str, mode: str, categories: tuple[str, ...]) -> Sample:
        """The cell's mean I-AUROC over these categories."""
        values = self.values(cell, mode, AREA, categories)
        # Where all share the drawn seeds, no cell has a stream of its own.
        variant = self.cells.index(cell) if len(self.trials) > 1 else 0
        training = self._weights(2 + variant, values.shape[1])
        coreset = self._weights(1, values.shape[2])
        total = np.zeros(RESAMPLES)
        for category in categories:
            areas = self._areas(cell, mode, category)
            total += np.einsum("bt,bs,bts->b", training, coreset, areas)
        return float(values.mean()), total / len(categories)

    def _weights(self, stream: int, size: int) -> Float[np.ndarray, "B k"]:
        """Weights of `size` seeds in each resample; equal for equal streams."""
        return counts(np.random.default_rng([self.seed, stream]), size) / size

    def difference(
        self, name: str, own: tuple[str, str], other: tuple[str, str]
    ) -> dict[str, float]:
        """`name` with its interval: what one (cell, mode) has more than another; {} for no pair."""
        both = tuple(c for c in self.complete(*own) if c in self.complete(*other))
        if not both:
            return {}
        return self._bounded(name, name.partition("_")[2], (own, other), both)

    def mean(
        self, metric: str, own: tuple[str, str], categories: tuple[str, ...]
    ) -> dict[str, float]:
        """The metric of a (cell, mode) over these categories, with its interval."""
        return self._bounded(metric, metric, (own,), categories)

    def _bounded(
        self,
        name: str,
        metric: str,
        pairs: tuple[tuple[str, str], ...],
        categories: tuple[str, ...],
    ) -> dict[str, float]:
        """The metric of a (cell, mode), or the difference of two, as `name` with its interval."""
        if metric == AREA:
            samples = [self.of(*pair, categories) for pair in pairs]
            mean, drawn = (parts[0] - sum(parts[1:]) for parts in zip(*samples, strict=True))
            return with_interval(name, mean, drawn)
        tables = [self.values(*pair, metric, categories).mean(0) for pair in pairs]
        paired = tables[0] - sum(tables[1:])
        # Points of the grid are shared by all cells, training seeds are not.
        half = half_width(paired.mean(0), *(table.mean(1) for table in tables))
        mean = float(paired.mean())
        ends = mean - half, mean + half
        low, high = ends if len(pairs) > 1 else within(*ends)  # a difference may be negative
        return {name: mean, f"{name}_low": low, f"{name}_high": high}

    def deviation(self, cell: str, mode: str, metric: str, categories: tuple[str, ...]) -> float:
        """Standard deviation of the mean over categories between seeds; NaN for one."""
        by_seed = self.values(cell, mode, metric, categories).mean(0)
        return float(by_seed.std(ddof=1)) if by_seed.size > 1 else float("nan")

    def _runs(self, cell: str, category: str) -> list[list[Result]]:
        """A list for each training seed, with a result for each coreset seed."""
        return [[self.results[cell, category, *trial] for trial in same] for same in self.trials]

    def _values(
        self, cell: str, mode: str, metric: str, categories: tuple[str, ...]
    ) -> Float[np.ndarray, "C T S"]:
        """The metric by category, training seed and coreset seed."""
        runs = [self._runs(cell, category) for category in categories]
        return np.array([[[number(r["modes"][mode][metric]) for r in s] for s in c] for c in runs])

    def _areas(self, cell: str, mode: str, category: str) -> Float[np.ndarray, "B T S"]:
        """I-AUROC in each resample, by training seed and coreset seed."""
        scores = [
            [[scan["scores"][mode] for scan in labelled(result)] for result in same]
            for same in self._runs(cell, category)
        ]
        place = self.categories.index(category)
        drawn = self.bad[place], self.good[place]
        return areas_under_roc(np.array(scores), self.defective[place], *drawn)

    def _defective(self, category: str) -> Bool[np.ndarray, " n"]:
        """Which test scans are defective; none for a category without a finished run."""
        for (_, name, *_), result in self.results.items():
            if name == category:
                return np.array([scan["defective"] for scan in labelled(result)], bool)
        return np.array([False, True])
