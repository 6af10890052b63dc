"""Means over categories, for the gallery: what each configuration gives, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from lsfa_lib.figures.findings import SHORT, Result, number, three_digits
from lsfa_lib.pages.gallery_data import RunEntry

METRICS = {
    "I-AUROC": "i_auroc",
    "AUPRO 30 %": "aupro_30",
    "AUPRO 5 %": "aupro_05",
    "P-AUROC": "p_auroc",
}


@dataclass(frozen=True)
class Row:
    """One configuration: how many runs, and for each metric a value by mode."""

    group: str
    runs: int
    values: dict[str, list[float]]


@dataclass(frozen=True)
class Block:
    """Configurations that were run on the same categories, so that their means compare."""

    categories: tuple[str, ...]
    rows: list[Row]

    def cells(self, row: Row, metric: str) -> list[tuple[str, bool]]:
        """(text, whether it is the block's best) of each value of a row."""
        values = [v for other in self.rows for v in other.values[metric] if not math.isnan(v)]
        every = {three_digits(value) for value in values}
        best = max(every) if len(every) > 1 else ""
        return [(three_digits(v), three_digits(v) == best) for v in row.values[metric]]


def blocks(entries: list[RunEntry]) -> list[Block]:
    """The configurations by the categories they were run on, the most categories first."""
    groups: dict[str, list[RunEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    names = [runs[0].group for runs in groups.values()]
    found: dict[tuple[str, ...], list[Row]] = {}
    for key, runs in sorted(groups.items()):
        group = runs[0].group
        # The words of two configs may be equal: one of their names was given twice.
        name = group if names.count(group) == 1 else key
        categories = tuple(sorted({str(run.result["category"]) for run in runs}))
        values = {label: _means(runs, modes(entries), metric) for label, metric in METRICS.items()}
        found.setdefault(categories, []).append(Row(name, len(runs), values))
    order = sorted(found, key=lambda categories: (-len(categories), categories))
    return [Block(categories, found[categories]) for categories in order]


def modes(entries: list[RunEntry]) -> list[str]:
    """The modes that at least one run has, in the order of tables."""
    return [mode for mode in SHORT if any(mode in entry.result["modes"] for entry in entries)]


def _means(runs: list[RunEntry], chosen: list[str], metric: str) -> list[float]:
    """Seeds are averaged first, then categories; NaN where a run has no such value."""
    categories: dict[str, list[Result]] = {}
    for run in runs:
        categories.setdefault(run.result["category"], []).append(run.result)
    return [
        _mean(
            _mean(number(result["modes"].get(mode, {}).get(metric)) for result in same)
            for same in categories.values()
        )
        for mode in chosen
    ]


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
