"""The runs of a study as tables: what each cell gives, how sure that is, and what was published.

A cell is one setting, run in every category with every seed. Cells are compared scan by scan with
the study's reference cell, see `paired`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lsfa_lib.evaluation.bootstrap import AREA, Measured, draws, resampled, verdict, with_interval
from lsfa_lib.figures.findings import BOTH, NAMES, SHORT, Result, labelled, number
from lsfa_lib.storage.files import InputError, atomic_write, located
from lsfa_lib.storage.results import read_result
from lsfa_lib.studies.published import ABLATIONS, published_file

SCHEMA = 1
METRICS = {"i_auroc": "I-AUROC", "aupro_30": "AUPRO 30 %", "p_auroc": "P-AUROC"}
PUBLISHED = {"i_auroc": "i_auroc", "aupro_30": "aupro", "p_auroc": "p_auroc"}
"""Columns of the published tables."""


@dataclass(frozen=True)
class StudyRuns:
    """What a sweep left: study.json and the result of every run that was finished."""

    about: dict[str, Any]
    results: dict[tuple[str, str, int], Result]
    """By (cell, category, seed)."""

    @property
    def cells(self) -> list[str]:
        """Cells with at least one finished run, in the study's order."""
        return [cell for cell in self.about["cells"] if any(key[0] == cell for key in self.results)]

    @property
    def modes(self) -> list[str]:
        """Modes that at least one run has, in the order of tables."""
        return [m for m in SHORT if any(m in result["modes"] for result in self.results.values())]


def load(folder: Path | str) -> StudyRuns:
    """The study in `folder`, which is looked for in the checkout too.

    Raises InputError where it was not run, no run was finished, or two runs of a category were
    tested on different scans.
    """
    folder = located(Path(folder))
    path = folder / "study.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        schema = about["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a finished study; run `lsfa sweep` with its file in studies/"
        ) from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema}, this version reads {SCHEMA}; sweep the study again"
        )
    results = {
        (run["cell"], run["category"], run["seed"]): read_result(
            folder / run["folder"] / "result.json"
        )
        for run in about["runs"]
        if run["state"] == "done"
    }
    if not results:
        raise InputError(f"{path}: none of its {len(about['runs'])} runs was finished")
    scans: dict[str, list[str]] = {}
    for (cell, category, _), result in results.items():
        names = [scan["name"] for scan in result["scans"]]
        if scans.setdefault(category, names) != names:
            raise InputError(
                f"{path}: runs of {category} were tested on different scans ({cell} is one); "
                "sweep the study again with --force"
            )
    return StudyRuns(about, results)


def against(study: StudyRuns, reference: str, cells: tuple[str, ...]) -> StudyRuns:
    """The study with these cells alone, compared with another reference."""
    kept = {cell: study.about["cells"][cell] for cell in (reference, *cells)}
    results = {key: result for key, result in study.results.items() if key[0] in kept}
    return StudyRuns({**study.about, "cells": kept, "reference": reference}, results)


def runs_frame(study: StudyRuns) -> pd.DataFrame:
    """One line for each finished run and mode: its metrics, threshold, seconds and memory."""
    folders = {(r["cell"], r["category"], r["seed"]): r["folder"] for r in study.about["runs"]}
    return pd.DataFrame(
        [
            {
                "cell": key[0],
                "category": key[1],
                "seed": key[2],
                "mode": mode,
                **{
                    name: number(value)
                    for name, value in values.items()
                    if isinstance(value, (int, float)) or value is None
                },
                "seconds": sum(result["seconds"].values()),
                "peak_memory_mb": result["peak_memory_mb"],
                "folder": folders[key],
            }
            for key, result in study.results.items()
            for mode, values in result["modes"].items()
        ]
    )


def table(study: StudyRuns, seed: int = 0) -> pd.DataFrame:
    """One line for each cell and mode: means over categories of the means over seeds.

    `<metric>_low` and `_high` are the 95 % interval, `_sd` the standard deviation over seeds.
    `d_<metric>` is the paired difference to the reference in the same mode, over the categories
    both were finished in; `published_<metric>` the paper's value. Means are over the categories
    finished with every seed, `runs` counts what is behind a line and `missing` what failed.
    """
    categories = list(study.about["categories"])
    drawn = draws([_defective(study, category) for category in categories], seed)
    lines = []
    for cell in study.cells:
        published = published_values(study, cell)
        for mode in study.modes:
            there = _complete(study, cell, mode)
            if not there:
                continue
            line: dict[str, Any] = {"row": cell, "mode": mode}
            line["runs"] = sum(key[0] == cell for key in study.results)
            line["missing"] = len(categories) * len(study.about["seeds"]) - line["runs"]
            places = [categories.index(category) for category in there]
            found = _measured(study, cell, mode, there)
            for metric in METRICS:
                mean = float(found.values[metric].mean())
                own = resampled(found, metric, drawn, 0, places)
                line |= with_interval(metric, mean, own)
                line[f"{metric}_sd"] = _deviation(found, metric)
                line[f"published_{metric}"] = published.get(metric, np.nan)
            line |= _gains(study, cell, mode, there, drawn)
            lines.append(line)
    frame = pd.DataFrame(lines)
    if len(study.about["seeds"]) == 1:
        # Over one seed there is no interval, and one of width 0 would seem sure.
        known = [c for c in frame.columns if c.endswith(("_low", "_high")) and AREA not in c]
        frame[known] = np.nan
    return frame


def _gains(
    study: StudyRuns, cell: str, mode: str, there: list[str], drawn: Any
) -> dict[str, float]:
    """Differences to the reference cell in the same mode."""
    reference = study.about["reference"]
    both = [c for c in there if c in _complete(study, reference, mode)]
    if cell == reference or not both:
        return {}
    places = [list(study.about["categories"]).index(category) for category in both]
    own = _measured(study, cell, mode, both)
    other = _measured(study, reference, mode, both)
    gains: dict[str, float] = {}
    for metric in METRICS:
        mean = float(own.values[metric].mean() - other.values[metric].mean())
        pair = (resampled(found, metric, drawn, 0, places) for found in (own, other))
        gains |= with_interval(f"d_{metric}", mean, next(pair) - next(pair))
    return gains


def _complete(study: StudyRuns, cell: str, mode: str) -> list[str]:
    """Categories in which the cell was finished with every seed, and has the mode."""
    return [
        category
        for category in study.about["categories"]
        if all(
            mode in study.results.get((cell, category, seed), {"modes": {}})["modes"]
            for seed in study.about["seeds"]
        )
    ]


def _measured(study: StudyRuns, cell: str, mode: str, categories: list[str]) -> Measured:
    """The cell's values; seeds stand on the axis that all cells share."""
    seeds = study.about["seeds"]
    runs = [[study.results[cell, category, seed] for seed in seeds] for category in categories]
    return Measured(
        {
            metric: np.array([[[number(r["modes"][mode][metric]) for r in same]] for same in runs])
            for metric in METRICS
        },
        [
            np.array([[[scan["scores"][mode] for scan in labelled(run)] for run in same]])
            for same in runs
        ],
    )


def _deviation(found: Measured, metric: str) -> float:
    by_seed = found.values[metric].mean((0, 1))
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")


def _defective(study: StudyRuns, category: str) -> np.ndarray:
    """Which test scans are defective; none for a category without a finished run."""
    for (_, name, _), result in study.results.items():
        if name == category:
            return np.array([scan["defective"] for scan in labelled(result)], bool)
    return np.array([False, True])


def published_values(study: StudyRuns, cell: str) -> dict[str, float]:
    """The paper's values of a cell, in RGB + 3D; empty where the study names no table or row."""
    about = study.about["published"]
    setting = about["rows"].get(cell)
    for row in published_file(ABLATIONS) if setting else ():
        if (row["table"], row["setting"]) == (about["table"], setting):
            return {ours: float(row[name]) for ours, name in PUBLISHED.items() if row[name]}
    return {}


def finding(study: StudyRuns, lines: pd.DataFrame, mode: str = BOTH) -> str:
    """The study's result in one sentence, by I-AUROC in one mode."""
    name = NAMES[mode]
    there = lines[lines["mode"] == mode]
    gains = [line for line in records(there) if verdict(line)]
    if not gains:
        line = records(there)[0] if len(there) else {}
        return f"{name}: I-AUROC {spread(line, AREA)}" if line else f"{name}: no finished run"
    reference = study.about["reference"]
    best = max(gains, key=lambda line: line[f"d_{AREA}"])
    sure = [line for line in gains if verdict(line) == "confirmed"]
    said = f"{best['row']} {spread(best, f'd_{AREA}', '+.3f')} I-AUROC against {reference}"
    worse = [line for line in gains if verdict(line) == "worse"]
    if worse and len(gains) > 1:
        worst = min(worse, key=lambda line: line[f"d_{AREA}"])
        lost = spread(worst, f"d_{AREA}", "+.3f")
        said += f"; worse: {len(worse)} of {len(gains)}, most {worst['row']} {lost}"
    if sure:
        return f"{len(sure)} of {len(gains)} gains confirmed in {name}; best: {said}"
    return f"No gain is confirmed here in {name}; best: {said}"


def spread(line: dict[str, Any], name: str, form: str = ".3f") -> str:
    """A value of a line with its interval: `0.934 [0.901, 0.960]`; a dash where there is none."""
    value, low, high = (line.get(name + end, np.nan) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "–"
    return f"{value:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


def write_tables(folder: Path | str) -> str:
    """Writes runs.parquet, table.parquet and table.csv into the study's folder.

    Returns the study's finding, one sentence.
    """
    study, folder = load(folder), Path(folder)
    lines = table(study)
    with atomic_write(folder / "runs.parquet") as file:
        runs_frame(study).to_parquet(file)
    with atomic_write(folder / "table.parquet") as file:
        lines.to_parquet(file)
    with atomic_write(folder / "table.csv") as file:
        lines.to_csv(file, index=False, float_format="%.6f")
    return finding(study, lines)


def config_of(study: StudyRuns, cell: str) -> dict[str, Any]:
    """The config of a cell's runs, as result.json keeps it."""
    return next(result["config"] for key, result in study.results.items() if key[0] == cell)


def lead_lines(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """One line a cell: RGB + 3D, or the one mode that a method of one modality has."""
    found: dict[str, dict[str, Any]] = {}
    for line in records(lines):
        if line["mode"] == BOTH or line["row"] not in found:
            found[line["row"]] = line
    return list(found.values())


def records(lines: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines one by one."""
    return [{str(name): value for name, value in line.items()} for line in lines.to_dict("records")]
