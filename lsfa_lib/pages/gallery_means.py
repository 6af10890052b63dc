"""Means over categories, for the gallery: each configuration's metrics, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from lsfa_lib.figures.findings import number, three_digits
from lsfa_lib.figures.names import SHORT_MODES
from lsfa_lib.pages.gallery_data import RunEntry

METRICS = ("i_auroc", "aupro_30", "aupro_05", "p_auroc")
"""What the gallery shows of a run, in this order."""


@dataclass(frozen=True)
class Row:
    """One configuration: its name, how many runs, and a line for each mode, a column a metric."""

    name: str
    runs: int
    means: pd.DataFrame


@dataclass(frozen=True)
class Block:
    """Configurations that were run on the same categories, so that their means compare."""

    categories: tuple[str, ...]
    rows: list[Row]

    def cells(self, row: Row, metric: str) -> list[tuple[str, bool]]:
        """(text, whether it is the block's best) of the row's value in each mode."""
        values = {v for other in self.rows for v in other.means[metric].dropna().map(three_digits)}
        best = max(values) if len(values) > 1 else ""
        return [(text, text == best) for text in row.means[metric].map(three_digits)]


def blocks(entries: list[RunEntry]) -> list[Block]:
    """The configurations by the categories they were run on, the most categories first.

    Seeds are averaged first, then categories; NaN where a run has no such value.
    """
    groups: dict[str, list[RunEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.key, []).append(entry)
    names = [runs[0].group for runs in groups.values()]
    found: dict[tuple[str, ...], list[Row]] = {}
    for key, runs in sorted(groups.items()):
        group = runs[0].group
        # Two configs with the same words: one preset name was used twice.
        name = group if names.count(group) == 1 else key
        categories = tuple(sorted({str(run.result["category"]) for run in runs}))
        found.setdefault(categories, []).append(Row(name, len(runs), _means(runs, modes(entries))))
    order = sorted(found, key=lambda categories: (-len(categories), categories))
    return [Block(categories, found[categories]) for categories in order]


def modes(entries: list[RunEntry]) -> list[str]:
    """The modes that at least one run has, in the order of tables."""
    return [mode for mode in SHORT_MODES if any(mode in e.result["modes"] for e in entries)]


def _means(runs: list[RunEntry], chosen: list[str]) -> pd.DataFrame:
    lines = [
        {"category": run.result["category"], "mode": mode}
        | {metric: number(values.get(metric)) for metric in METRICS}
        for run in runs
        for mode, values in run.result["modes"].items()
    ]
    by_category = pd.DataFrame(lines).groupby(["mode", "category"]).mean(skipna=False)
    return by_category.groupby("mode").mean(skipna=False).reindex(chosen)
