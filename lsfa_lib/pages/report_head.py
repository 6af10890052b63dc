"""What stands above and below a page's notebook: key numbers, a study's runs, provenance."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat

from lsfa_lib.config import flat
from lsfa_lib.figures.findings import (
    NAMES,
    Result,
    counts,
    lead,
    number,
    settings,
    shown,
    three_digits,
)
from lsfa_lib.pages.gallery_data import StudyEntry, StudyRun, last_line
from lsfa_lib.pages.page import day

Number = tuple[str, str, str]
"""Label, value, detail."""
Link = Callable[[Path], str]
"""The address of a file beside the page; empty where it is not linked."""


def run_head(result: Result) -> dict[str, Any]:
    """The head of a run's page: what was run, four numbers, whether weights were random."""
    preset, *rest = settings(result)
    return {
        "eyebrow": [f"{preset} preset", *rest, f"seed {result['seed']}", day(result["created"])],
        "numbers": _run_numbers(result),
        "random": [NAMES[m] for m, w in result["weights"].items() if w["random"]],
    }


def study_head(study: StudyEntry, reports: Path, link: Link) -> dict[str, Any]:
    """The head of a study's page: its finding, how much was run, its runs and failures."""
    done, failed = len(study.runs) - len(study.failed), len(study.failed)
    cells = f"{len(study.cells)} settings in {len(study.categories)} categories"
    files = {
        "Table (CSV)": "table.csv",
        "Table (Parquet)": "table.parquet",
        "All runs (Parquet)": "runs.parquet",
        "Notebook": "notebook.ipynb",
    }
    links = [(label, link(study.folder / name)) for label, name in files.items()]
    return {
        "eyebrow": [f"{study.preset} preset", day(study.created)],
        "finding": study.finding,
        "numbers": [
            ("Runs finished", f"{done} of {len(study.runs)}", cells),
            ("Failed", str(failed), "listed below" if failed else "every run was finished"),
            ("Seeds", str(len(study.seeds)), ", ".join(map(str, study.seeds))),
            ("Categories", str(len(study.categories)), ", ".join(study.categories)),
        ],
        "downloads": [(label, address) for label, address in links if address],
        "categories": study.categories,
        "run_rows": list(_run_rows(study, reports, link)),
        "failures": [
            (f"{run.cell}, {run.category}, seed {run.seed}", _error(run, reports))
            for run in study.failed
        ],
    }


def provenance(
    notebook: nbformat.NotebookNode, result: Result | None
) -> Iterator[tuple[str, list[tuple[str, str]], bool]]:
    """(caption, rows, open at first) of the tables that say how the page came about."""
    parameters = notebook.metadata.get("papermill", {}).get("parameters", {})
    if parameters:
        yield "Parameters", _rows(parameters), True
    if result is None:
        return
    yield "Weights", _rows(result["weights"]), True
    machine = {
        **result["machine"],
        "commit": result["commit"] or "outside a checkout",
        "peak memory": f"{result['peak_memory_mb']:.0f} MB",
    }
    yield "Machine and code", _rows(machine), True
    training = _training(result)
    yield "Training", training, "note" in dict(training)
    drawn = {}
    if result["config"].get("shots"):
        drawn["drawn for training"] = [name.split("/")[-1] for name in result["train_scans"]]
    yield "Scans", _rows({**result["counts"], **drawn}), False
    yield "Seconds", [(k, f"{v:.1f}") for k, v in result["seconds"].items()], False
    yield "Configuration", _rows(result["config"]), False


def relative(target: Path, page: Path) -> str:
    """The address of a file as seen from a page."""
    return quote(os.path.relpath(target, page.parent).replace(os.sep, "/"))


def _run_numbers(result: Result) -> list[Number]:
    mode = lead(result)
    both, name = result["modes"][mode], NAMES[mode]
    low, high = both["i_auroc_interval"]
    found, bad, rejected, good = counts(result)
    return [
        (
            f"I-AUROC, {name}",
            three_digits(both["i_auroc"]),
            f"95 % interval {three_digits(low)} to {three_digits(high)}"
            if low is not None
            else "undefined for these test scans",
        ),
        (f"AUPRO 30 %, {name}", three_digits(both["aupro_30"]), "defects located"),
        (
            "Defective parts found",
            f"{found} of {bad}",
            f"score above {number(both['threshold']):.2f}",
        ),
        ("Good parts rejected", f"{rejected} of {good}", "at the same threshold"),
    ]


def _run_rows(
    study: StudyEntry, reports: Path, link: Link
) -> Iterator[tuple[str, list[list[tuple[str, str, bool]]]]]:
    """For each cell of the study, by category, (seed, address, finished) of its runs."""
    runs: dict[str, dict[str, list[StudyRun]]] = {cell: {} for cell in study.cells}
    for run in study.runs:
        runs.setdefault(run.cell, {}).setdefault(run.category, []).append(run)
    for cell, by_category in runs.items():
        yield (
            cell,
            [
                [
                    (f"seed {run.seed}", link(reports / run.place / "report.html"), run.done)
                    for run in by_category.get(category, [])
                ]
                for category in study.categories
            ],
        )


def _error(run: StudyRun, reports: Path) -> str:
    """Last line of what the run failed with, from study.json or the run's own file."""
    path = reports / run.place / "error.txt"
    if run.error or not path.exists():
        return run.error or "no traceback was kept"
    return last_line(path.read_text(encoding="utf-8", errors="replace"))


def _training(result: Result) -> list[tuple[str, str]]:
    """Steps, first and last value of each loss, and what was done otherwise than asked for."""
    training = result.get("training")
    if not training:
        return [("adaptors", "none: features are used as the backbones give them")]
    history = training["history"]
    rows = [("steps", str(len(history)))]
    for term in ("loss", "LA", "GA", "LC", "GC"):
        if values := [step[term] for step in history if term in step]:
            name = term if term == "loss" else f"loss {term}"
            rows.append((name, f"{values[0]:.4g} at first, {values[-1]:.4g} at last"))
    return rows + [("note", note) for note in training["notes"]]


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, shown(value)) for name, value in flat(values)]
