"""Studies executed: every run once, in parallel, then their tables and pages and the index.

What is finished stays finished: a sweep that is stopped, killed or changed resumes where it was.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from lsfa_lib.pages import gallery
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import SCHEMA, now, write_json
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.study_runs import Job, Run, forget_data, runs_of, settings_of
from lsfa_lib.studies.study_table import write_tables
from lsfa_lib.studies.sweep_cluster import crew
from lsfa_lib.studies.sweep_worker import Outcome, failed, finished
from lsfa_lib.studies.watch import Watch


@dataclass
class Swept:
    """What a sweep left."""

    index: Path
    folders: list[Path] = field(default_factory=list)
    """One for each study, with study.json, its tables and its page."""
    failures: dict[Path, str] = field(default_factory=dict)
    """Folder of each run, table or page that failed, and why."""

    def note(self, folder: Path, outcome: Outcome) -> None:
        """Keeps why a job failed, if it did."""
        if outcome.error:
            self.failures[folder] = outcome.error


def run_sweep(
    studies: list[Study],
    reports: Path,
    workers: int = 2,
    scheduler: str = "",
    force: bool = False,
) -> Swept:
    """Executes what is not finished of the studies, then writes their tables, pages and the index.

    `workers` processes on this machine share its cores; with the address of a dask scheduler, the
    runs go to its workers. Runs that fail are listed in the answer, with their folder; tables and
    pages are made from the others. Raises InputError before the first run where one cannot work.
    """
    start, reports = time.perf_counter(), reports.resolve()
    forget_data()
    runs = {study.name: runs_of(study, reports) for study in studies}
    jobs: dict[str, Run] = {}
    for run in chain.from_iterable(runs.values()):
        jobs.setdefault(run.key, replace(run, again=force))
    known = {} if force else {key: finished(job) for key, job in jobs.items()}
    outcomes = {key: outcome for key, outcome in known.items() if outcome}
    todo = [job for key, job in jobs.items() if key not in outcomes]
    swept, compared = Swept(reports / "index.html"), [s for s in studies if s.has_numbers]
    watch = Watch(len(todo) + sum(bool(study.page) for study in compared))
    workers = min(workers, max(1, len(todo)))
    peak_mb = max((outcome.peak_mb for outcome in outcomes.values()), default=0.0)
    with crew(workers, scheduler, watch, peak_mb) as run_all:
        for job, outcome in run_all(todo):
            outcomes[job.key] = outcome
            swept.note(job.folder, outcome)
        for study in compared:
            folder = reports / "studies" / study.folder
            about = _about(study) | {"wall_seconds": time.perf_counter() - start}
            about["runs"] = [
                _about_run(study, run, jobs[run.key].folder, outcomes[run.key], folder)
                for run in runs[study.name]
            ]
            _write_tables(swept, folder, about)
        for job, outcome in run_all([page for s in compared for page in _pages(s, reports)]):
            swept.note(job.folder, outcome)
    gallery.write_index(reports)
    return swept


def _pages(study: Study, reports: Path) -> list[Job]:
    """The job of a study's page; none where there is no page or no table for it."""
    folder = reports / "studies" / study.folder
    if not study.page or not (folder / "table.parquet").exists():
        return []
    notebook = study.find(study.page).resolve()
    return [Job(notebook, folder, {"study": str(folder)}, title=study.title)]


def _about(study: Study) -> dict[str, Any]:
    """What study.json says of the study itself."""
    settings = settings_of(study)
    return {
        "schema": SCHEMA,
        "name": study.name,
        "title": study.title,
        "preset": Path(study.preset).stem,
        "page": study.page,
        "seeds": study.seeds,
        "cells": study.cells,
        "grid": study.points,
        "reference": study.reference,
        "control": study.control,
        "published": asdict(study.published),
        "unavailable": {s.cell: s.missing for s in settings if s.missing},
        "finding": "",
        "created": now(),
    }


def _about_run(
    study: Study, run: Run, place: Path, outcome: Outcome, folder: Path
) -> dict[str, Any]:
    """What study.json in `folder` says of a run whose results are in `place`.

    Another study may have named the folder of the same run.
    """
    return {
        "cell": run.cell,
        "category": run.category,
        "seed": run.seed,
        "point": study.points.index(run.point),
        "folder": Path(os.path.relpath(place, folder)).as_posix(),
        "state": "failed" if outcome.error else "done",
        **asdict(outcome),
    }


def _write_tables(swept: Swept, folder: Path, about: dict[str, Any]) -> None:
    """Writes study.json and the tables of the finished runs, then the finding from them."""
    about["categories"] = list(dict.fromkeys(run["category"] for run in about["runs"]))
    swept.folders.append(folder)
    write_json(folder / "study.json", about)
    try:
        finding = write_tables(folder)
    except InputError as error:
        for name in ("runs.parquet", "table.parquet", "table.csv"):
            (folder / name).unlink(missing_ok=True)
        swept.note(folder, failed(folder, error))
        return
    write_json(folder / "study.json", {**about, "finding": finding})
