"""Studies executed: every run once, side by side, then their tables and pages and the index.

What is finished stays finished: a sweep that is stopped, killed or changed goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lsfa_lib.notebooks.find import find_notebook
from lsfa_lib.pages import gallery
from lsfa_lib.storage.files import InputError, atomic_write
from lsfa_lib.storage.results import now
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.study_runs import Run, runs_of, settings_of
from lsfa_lib.studies.study_table import write_tables
from lsfa_lib.studies.sweep_cluster import crew
from lsfa_lib.studies.sweep_worker import Job, Outcome, failed, finished
from lsfa_lib.studies.watch import Watch

SCHEMA = 1


@dataclass
class Swept:
    """What a sweep left."""

    index: Path
    folders: list[Path] = field(default_factory=list)
    """One a study, with study.json, its tables and its page."""
    failures: dict[Path, str] = field(default_factory=dict)
    """Folder of each run, table or page that failed, and why."""


@dataclass
class _Plan:
    """The runs of all studies, each once, and what became of them."""

    reports: Path
    runs: dict[str, list[Run]]
    """By the study's name."""
    jobs: dict[str, Job]
    """By the run's key."""
    outcomes: dict[str, Outcome]

    @property
    def todo(self) -> list[Job]:
        """Jobs without an outcome, in order."""
        return [job for key, job in self.jobs.items() if key not in self.outcomes]


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
    start = time.perf_counter()
    plan = _plan(studies, reports.resolve(), force)
    swept, todo = Swept(plan.reports / "index.html"), plan.todo
    compared = [study for study in studies if study.has_numbers]
    pages = [study for study in compared if study.page]
    watch = Watch(len(todo) + len(pages))
    with crew(min(workers, max(1, len(todo))), scheduler, watch) as run_all:
        for job, outcome in run_all(todo):
            plan.outcomes[job.key] = outcome
            _note(swept, job, outcome)
        for study in compared:
            about = _about(study, plan) | {"wall_seconds": time.perf_counter() - start}
            _write_tables(swept, plan.reports / "studies" / study.folder, about)
        made = [page for study in pages if (page := _page(study, plan.reports))]
        for job, outcome in run_all(made):
            _note(swept, job, outcome)
    gallery.write_index(plan.reports)
    return swept


def _plan(studies: Iterable[Study], reports: Path, force: bool) -> _Plan:
    """Every run of the studies, checked; those that are finished have their outcome already."""
    runs = {study.name: runs_of(study) for study in studies}
    jobs: dict[str, Job] = {}
    for study in studies:
        for run in runs[study.name]:
            jobs.setdefault(run.key, job_of(study, run, reports, force))
    outcomes = {} if force else {key: finished(job) for key, job in jobs.items()}
    return _Plan(reports, runs, jobs, {key: known for key, known in outcomes.items() if known})


def job_of(study: Study, run: Run, reports: Path, force: bool = False) -> Job:
    """The job of a run: its notebook with its parameters, in its folder below `reports`."""
    about: dict[str, Any] = {"again": force, "place": str(Path.cwd())}
    if not study.has_numbers:
        # Next to the studies, where the gallery looks for pages that are no runs.
        folder = reports / f"{run.notebook.stem}-{run.folder}"
        about |= {"title": f"{study.title} ({run.category})", "has_numbers": False}
        return Job(run.notebook, folder, run.parameters, run.key, **about)
    if study.file is None:
        folder = reports / "runs" / "quickstart" / f"{run.category}-{run.cell}-s{run.seed}"
        return Job(run.notebook, folder, {**run.parameters, "out": str(folder)}, **about)
    folder = reports / "runs" / "sweep" / run.folder
    return Job(run.notebook, folder, {**run.parameters, "out": str(folder)}, run.key, **about)


def _note(swept: Swept, job: Job, outcome: Outcome) -> None:
    if outcome.state == "failed":
        swept.failures[job.folder] = outcome.error


def _page(study: Study, reports: Path) -> Job | None:
    """The job of a study's page; None where there is no table."""
    folder = reports / "studies" / study.folder
    if not (folder / "table.parquet").exists():
        return None
    assert study.file
    notebook = find_notebook(study.page, study.file.parent).resolve()
    return Job(notebook, folder, {"study": str(folder)}, title=study.title, place=str(Path.cwd()))


def _about(study: Study, plan: _Plan) -> dict[str, Any]:
    """What study.json says, before the tables are made."""
    folder, runs = plan.reports / "studies" / study.folder, plan.runs[study.name]
    return {
        "schema": SCHEMA,
        "name": study.name,
        "title": study.title,
        "preset": study.preset_name,
        "page": study.page,
        "categories": list(dict.fromkeys(run.category for run in runs)),
        "seeds": list(study.seeds),
        "cells": study.cells,
        "grid": study.grid,
        "reference": study.reference,
        "control": study.control,
        "published": asdict(study.published),
        "unavailable": {s.cell: s.missing for s in settings_of(study) if s.missing},
        "runs": [
            {
                "cell": run.cell,
                "category": run.category,
                "seed": run.seed,
                "point": study.grid.index(run.point),
                "folder": Path(os.path.relpath(plan.jobs[run.key].folder, folder)).as_posix(),
                **asdict(plan.outcomes[run.key]),
            }
            for run in runs
        ],
        "finding": "",
        "created": now(),
    }


def _write_tables(swept: Swept, folder: Path, about: dict[str, Any]) -> None:
    """Writes study.json and the tables of the runs that are there, then the finding from them."""
    swept.folders.append(folder)
    _write_json(folder / "study.json", about)
    try:
        finding = write_tables(folder)
    except InputError as error:
        for name in ("runs.parquet", "table.parquet", "table.csv"):
            (folder / name).unlink(missing_ok=True)
        swept.failures[folder] = failed(folder, error).error
        return
    _write_json(folder / "study.json", {**about, "finding": finding})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        file.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
