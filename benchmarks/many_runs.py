"""A sweep of very many runs, killed in the middle: `python -m benchmarks.many_runs 2000`.

Writes many_runs.md. Each run copies the results of one real run with other scores, so what is
measured is what the sweep, its study page and the gallery cost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil
import yaml
from nbformat import v4

from benchmarks.harness import device_name
from lsfa_lib.demo.synthetic import DemoCounts, DemoSettings, write_demo
from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.notebooks.run import execute
from lsfa_lib.storage.files import atomic_write
from lsfa_lib.storage.results import commit, now
from tests.browser_case import chromium

CATEGORIES = ("biscuit", "orange", "seal", "spindle")
CELLS = {name: {"only": name} for name in ("none", "CLC", "IFC", "both")}
WORKERS, PARTS, LOADS = 2, 10, 5
LSFA = [sys.executable, "-c", "from lsfa_lib.cli.app import main; main()"]
NOTEBOOK = (
    'category: str = ""\nseed: int = 0\nout: str = ""\npreset: str = ""\nfields: dict = {}\n'
    'model: str = ""  # folder of a real run',
    """import json, random, shutil
from pathlib import Path

shutil.copy(Path(model) / "maps.npz", out)
result = json.loads((Path(model) / "result.json").read_text())
result |= {"category": category, "seed": seed}
result["config"] |= {"preset": preset}
draw = random.Random(f"{category} {seed} {fields}")
for scan in result["scans"]:
    scan["scores"] = {mode: score + draw.gauss(0, 1) for mode, score in scan["scores"].items()}
Path(out, "result.json").write_text(json.dumps(result))""",
)
RESULTS = Path(__file__).parent / "many_runs.md"
TEXT = """# A sweep of {count} runs

Written by `python -m benchmarks.many_runs {count}` on {date} at {commit}, nothing by hand;
{device}, {workers} workers. A run copies the results and maps of a real one. The sweep was killed
by SIGKILL with its workers after {killed} finished runs and started again: {lost} finished runs
were lost, {repeated} repeated, {failed} failed.

{table}

Seconds per run are wall time; the second start is part of the {part}th tenth. Memory is the
resident set at the end of each tenth. The study's tables and page and the gallery then took
{pages_s:.0f} s.

{pages}

Median seconds until text is visible and until the load event, in Chromium. The last row is an
empty page with plotly.js, which every page with figures loads: what more a page takes is its own.
"""
PAINT = """() => [
    performance.getEntriesByName("first-contentful-paint")[0].startTime,
    performance.getEntriesByType("navigation")[0].loadEventStart,
]"""
EMPTY = '<!doctype html><p>No figure.</p><script src="plotly.min.js"></script>'


@dataclass
class Progress:
    """What was seen while sweeps ran."""

    seconds: list[float] = field(default_factory=list)
    """Since the first start, at each observation."""
    finished: list[int] = field(default_factory=list)
    main_mb: list[float] = field(default_factory=list)
    workers_mb: list[float] = field(default_factory=list)


def main(count: int) -> None:
    """Sweeps, kills, resumes, opens the pages, and writes the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, marks = _study(folder, count), folder / "reports" / "runs" / "sweep"
        seen, begun = Progress(), time.perf_counter()
        _sweep(folder, study, seen, begun, count // 2)
        kept = _marks(marks)
        _sweep(folder, study, seen, begun, count + 1)
        after = _marks(marks)
        index, page = folder / "reports/index.html", *folder.glob("reports/studies/*/report.html")
        text = TEXT.format(
            count=count,
            date=now()[:10],
            commit=commit(),
            device=device_name(),
            workers=WORKERS,
            killed=len(kept),
            lost=len(kept.keys() - after.keys()),
            repeated=sum(after[path] != kept[path] for path in kept.keys() & after.keys()),
            failed=count - len(after),
            table=_by_part(seen, count).to_markdown(index=False, floatfmt=".4g"),
            part=PARTS // 2 + 1,
            pages_s=seen.seconds[-1] - seen.seconds[seen.finished.index(count)],
            pages=_loads(index, page).to_markdown(index=False, floatfmt=".3g"),
        )
    with atomic_write(RESULTS) as file:
        file.write_text(text, encoding="utf-8")
    print(text)


def _study(folder: Path, count: int) -> Path:
    """Data, a real run, and the study whose runs copy it."""
    write_demo(folder / "data", DemoSettings(CATEGORIES, DemoCounts(4, 2, 4, 2)))
    fields = {"data.root": str(folder / "data"), "cache": str(folder / "cache"), "device": "cpu"}
    parameters = {"preset": "tiny", "category": CATEGORIES[0], "scans": 1}
    model = folder / "model"
    execute(
        find_notebook("00_quickstart"), model, parameters | {"out": str(model), "fields": fields}
    )
    cells: Any = v4
    first, *more = (cells.new_code_cell(each) for each in NOTEBOOK)
    first.metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = cells.new_notebook(cells=[first, *more], metadata=kernel)
    (folder / "copy.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    study: dict[str, Any] = {
        "title": "Very many runs",
        "run": "copy.ipynb",
        "page": "04_components",
        "preset": "tiny",
        "categories": list(CATEGORIES),
        "seeds": list(range(count // (len(CATEGORIES) * len(CELLS)))),
        "parameters": {"model": str(model)},
        "cells": CELLS,
    }
    (folder / "many.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return folder / "many.yaml"


def _sweep(folder: Path, study: Path, seen: Progress, begun: float, most: int) -> None:
    """Runs the sweep to its end, or kills it at so many finished runs; notes what it needs."""
    command = ["sweep", str(study), "--data", str(folder / "data"), "--workers", str(WORKERS)]
    process = subprocess.Popen(
        [*LSFA, *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        done = len(_marks(folder / "reports" / "runs" / "sweep"))
        if done >= most:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seen.seconds.append(time.perf_counter() - begun)
        seen.finished.append(done)
        own, *others = _resident_mb(process.pid)
        seen.main_mb.append(own)
        seen.workers_mb.append(sum(others))
        time.sleep(0.5)


def _resident_mb(pid: int) -> list[float]:
    """Resident memory of a process and of its descendants, MB; 0 for one that ended."""
    found = [0.0]
    try:
        process = psutil.Process(pid)
        found = [process.memory_info().rss / 1e6]
        found += [each.memory_info().rss / 1e6 for each in process.children(recursive=True)]
    except psutil.NoSuchProcess:  # it ended while it was looked at
        pass
    return found


def _marks(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}


def _by_part(seen: Progress, count: int) -> pd.DataFrame:
    """A row for each tenth of the runs."""
    ends = [next(i for i, n in enumerate(seen.finished) if n >= 1)]
    ends += [
        next(i for i, n in enumerate(seen.finished) if n >= count * part // PARTS)
        for part in range(1, PARTS + 1)
    ]
    return pd.DataFrame(
        {
            "runs finished": seen.finished[end],
            "seconds per run": (seen.seconds[end] - seen.seconds[start])
            / (seen.finished[end] - seen.finished[start]),
            "scheduler, MB": seen.main_mb[end],
            "workers, MB": seen.workers_mb[end],
        }
        for start, end in pairwise(ends)
    )


def _loads(index: Path, study: Path) -> pd.DataFrame:
    """A row for each page: its size, and the seconds until it is visible and loaded."""
    empty = index.with_name("empty.html")
    empty.write_text(EMPTY, encoding="utf-8")
    rows = []
    for title, path in (("gallery", index), ("study", study), ("plotly.js alone", empty)):
        visible, loaded = visible_and_loaded_s(path)
        size = path.stat().st_size / 1e6
        rows.append({"page": title, "MB": size, "visible, s": visible, "loaded, s": loaded})
    return pd.DataFrame(rows)


def visible_and_loaded_s(path: Path) -> tuple[float, float]:
    """Median seconds until the page's first text is painted, and until its load event."""
    found = []
    with chromium() as browser:
        for _ in range(LOADS):
            page = browser.new_page()
            page.goto(path.as_uri(), wait_until="load")
            found.append(page.evaluate(PAINT))
            page.close()
    visible, loaded = zip(*found, strict=True)
    return median(visible) / 1e3, median(loaded) / 1e3


if __name__ == "__main__":
    main(int(sys.argv[1]))
