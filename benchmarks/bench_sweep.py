"""What a sweep costs beyond the notebooks' own work, and what a kernel for each run would cost."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import yaml

from benchmarks.harness import Row, device_name, measure
from lsfa_lib.demo.synthetic import DemoSettings, write_demo
from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.notebooks.run import execute
from lsfa_lib.studies.study import Choices, read_studies
from lsfa_lib.studies.sweep import run_sweep

WORKERS = 2
CATEGORIES = ("biscuit", "orange", "seal", "spindle")
CELLS = {name: {"only": name} for name in ("none", "CLC", "IFC", "both")}
"""With these categories, the components study of the demo."""
ALONE = "its cells alone"


def one_run(folder: Path, kernel: bool) -> None:
    """A small run of the quickstart, its features in the cache."""
    parameters: dict[str, Any] = {"preset": "tiny", "category": CATEGORIES[0], "scans": 1}
    fields = {"data.root": str(folder / "data"), "device": "cpu", "cache": str(folder / "cache")}
    parameters |= {"out": str(folder / "run"), "fields": fields}
    execute(find_notebook("00_quickstart"), folder / "run", parameters, kernel)


def sweep(folder: Path) -> tuple[float, list[float]]:
    """Seconds of a whole sweep, and those of each run's cells.

    The start of workers and the tables count, the page does not: it is a notebook's own work too,
    and no run.
    """
    study = folder / "bench.yaml"
    parameters = {"scans": 1, "cache": str(folder / "cache")}
    study.write_text(yaml.safe_dump({"parameters": parameters, "cells": CELLS}), encoding="utf-8")
    choices = Choices(categories=CATEGORIES, fields={"data.root": str(folder / "data")})
    start = time.perf_counter()
    swept = run_sweep(read_studies(study, choices), folder / "reports", WORKERS)
    wall = time.perf_counter() - start
    assert not swept.failures, swept.failures
    cells = []
    for path in (folder / "reports").glob("runs/sweep/*/notebook.ipynb"):
        notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        cells.append(sum(cell.metadata.papermill["duration"] or 0.0 for cell in notebook.cells))
    return wall, cells


def rows() -> list[Row]:
    """A run both ways, then a sweep beside what its cells alone take on as many workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo(folder / "data", DemoSettings(categories=CATEGORIES))
        alone = measure(
            "one small run of the quickstart in a warm process",
            partial(one_run, folder, False),
            {"a kernel for it": partial(one_run, folder, True)},
            repeats=3,
            target=">= 1.5x",
        )
        wall, cells = sweep(folder)
    each, own = WORKERS * wall / len(cells), sum(cells) / len(cells)
    ratio = own / each
    return [
        alone,
        Row(
            stage=f"sweep of {len(cells)} runs, {WORKERS} workers: a worker's time a run",
            ours_s=each,
            peers={ALONE: own},
            ratios={ALONE: (ratio, ratio, ratio)},
            ours_mb=float("nan"),
            target=">= 0.91x (10 %)",
            device=device_name(),
        ),
        Row(
            stage="of that, beyond the cells",
            ours_s=each - own,
            peers={},
            ratios={},
            ours_mb=float("nan"),
            target="<= 3 s",
            device=device_name(),
        ),
    ]
