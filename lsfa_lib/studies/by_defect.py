"""Which defects each cell of a study finds: I-AUROC by kind and by size of the defect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lsfa_lib.evaluation.metrics import auroc
from lsfa_lib.figures.findings import BOTH, Result, labelled
from lsfa_lib.figures.names import MODES, SHORT_MODES
from lsfa_lib.figures.tables import marked
from lsfa_lib.studies.study_table import StudyRuns, against, lead_lines

SIZES = ("small", "medium", "large")
"""Thirds of the defective scans of a category, by the area of the defect."""
Trial = tuple[Any, ...]
"""Category, seed and point of the grid of a run."""
Groups = dict[str, str]
"""Name of a defective test scan -> the group it is counted in."""


def kind_table(study: StudyRuns, mode: str = BOTH) -> Styler:
    """I-AUROC of the scans of each kind of defect against the good scans.

    A cell with further evidence has a second row for each fusion with it.
    """
    return _table(study, mode, _kinds)


def lead_kind_table(study: StudyRuns, lines: pd.DataFrame) -> Styler:
    """I-AUROC by kind of defect of each cell in its leading mode, named in its row."""
    rows, trials = [], finished_by_all(study)
    for line in lead_lines(lines):
        cell, mode = str(line["row"]), str(line["mode"])
        own = by_group(against(study, cell, ()), mode, _kinds, trials)
        rows.append(own.rename(index={cell: f"{cell} ({SHORT_MODES[mode]})"}))
    frame = pd.concat(rows).rename_axis(index=None, columns=None) if rows else pd.DataFrame()
    return marked(frame, frame, caption="I-AUROC against all good scans.")


def size_table(study: StudyRuns, mode: str = BOTH) -> Styler:
    """I-AUROC of the smaller, middle and larger defects of each category; its thirds by area."""
    return _table(study, mode, size_groups)


def size_groups(result: Result) -> Groups:
    """The third each defective scan is in; {} for results without areas."""
    scans = [scan for scan in _defective(result) if "defect_percent" in scan]
    order = sorted(scans, key=lambda scan: (scan["defect_percent"], scan["name"]))
    return {s["name"]: SIZES[3 * place // len(order)] for place, s in enumerate(order)}


def by_group(
    study: StudyRuns,
    mode: str,
    groups_of: Callable[[Result], Groups],
    trials: set[Trial] | None = None,
) -> pd.DataFrame:
    """I-AUROC of each group against all good scans: cells x groups, means over runs.

    Over `trials`; None: those that every cell has finished, so that cells are comparable.
    """
    trials = finished_by_all(study) if trials is None else trials
    found = []
    for (cell, category, *trial), result in study.results.items():
        if (category, *trial) not in trials:
            continue
        scans = [scan for scan in labelled(result) if mode in scan["scores"]]
        groups = groups_of(result) if scans else {}
        for group in dict.fromkeys(groups.values()):
            own = [s for s in scans if not s["defective"] or groups.get(s["name"]) == group]
            area = auroc([s["scores"][mode] for s in own], [s["defective"] for s in own])
            found.append({"cell": cell, "category": category, "group": group, "area": area})
    if not found:
        return pd.DataFrame()
    table = pd.DataFrame(found).pivot_table(values="area", index="cell", columns="group")
    columns = [str(group) for group in table.columns]
    order = [group for group in SIZES if group in columns] or sorted(columns)
    return table.loc[[cell for cell in study.cells if cell in table.index], order]


def finished_by_all(study: StudyRuns) -> set[Trial]:
    """Category, seed and point of the runs that every cell with results has finished.

    A cell that has finished less than half of its runs does not count.
    """
    each: dict[str, set[Trial]] = {}
    for cell, *trial in study.results:
        each.setdefault(cell, set()).add(tuple(trial))
    most = max(map(len, each.values()), default=0)
    counted = [trials for trials in each.values() if 2 * len(trials) >= most]
    return set.intersection(*counted) if counted else set()


def _table(study: StudyRuns, mode: str, groups_of: Callable[[Result], Groups]) -> Styler:
    frame, reference = by_group(study, mode, groups_of), study.about.reference
    for other in [m for m in study.modes if m.startswith(f"{mode}+")]:
        further = by_group(study, other, groups_of)
        further.index = pd.Index([f"{cell}, {SHORT_MODES[other]}" for cell in further.index])
        frame = pd.concat([frame, further])
    if reference in frame.index:
        worst = (frame - frame.loc[reference]).min(axis=1)
        frame["least gain"] = np.where(frame.index == reference, np.nan, worst)
    frame = frame.rename_axis(index=None, columns=MODES[mode])
    caption = (
        "I-AUROC against all good scans, over the runs that all cells have finished; least gain: "
        f"smallest difference to {reference}."
    )
    return marked(frame, frame, caption=caption)


def _kinds(result: Result) -> Groups:
    return {scan["name"]: scan["kind"] for scan in _defective(result)}


def _defective(result: Result) -> list[dict[str, Any]]:
    return [scan for scan in result["scans"] if scan["defective"]]
