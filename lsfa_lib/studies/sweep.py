"""Studies executed: every run once, side by side, then their tables and pages and the index.

What is finished stays finished: a sweep that is stopped, killed or changed goes on where it was.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lsfa_lib.notebooks.run import find_notebook
from lsfa_lib.pages import gallery
from lsfa_lib.storage.files import InputError, atomic_write
from lsfa_lib.storage.results import now
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.study_runs import Run, runs_of, unavailable
from lsfa_lib.studies.study_table import write_tables
from lsfa_lib.studies.sweep_cluster import cluster_client, performed
from lsfa_lib.studies.sweep_worker import Job, Outcome, failed, finished, tidy

SCHEMA = 1
_log = logging.getLogger(__name__)


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

    `workers` processes on this machine share its cores; the address of a dask scheduler takes that
    one's workers instead. Runs that fail are told in the answer, with their folder; the tables and
    pages are made from the others. Raises InputError before the first run where one cannot work.
    """
    start = time.perf_counter()
    plan = _plan(studies, reports.resolve(), force)
    todo, swept = plan.todo, Swept(plan.reports / "index.html")
    _log.info("%d runs, %d of them finished before", len(plan.jobs), len(plan.outcomes))
    try:
        with cluster_client(min(workers, max(1, len(todo))), scheduler) as (client, threads):
            todo = [replace(job, threads=threads) for job in todo]
            for job, outcome in _told(performed(client, todo), len(todo)):
                plan.outcomes[job.key] = outcome
                _note(swept, job, outcome)
            compared = [study for study in studies if study.has_numbers]
            for study in compared:
                about = _about(study, plan) | {"wall_seconds": time.perf_counter() - start}
                _write_tables(swept, plan.reports / "studies" / study.folder, about)
            pages = [_page(study, plan.reports, threads) for study in compared if study.page]
            there = [page for page in pages if (page.folder / "table.parquet").exists()]
            for job, outcome in _told(performed(client, there), len(there)):
                _note(swept, job, outcome)
    except KeyboardInterrupt:
        for job in () if scheduler else todo:
            tidy(job.folder)
        raise
    gallery.write_index(plan.reports)
    return swept


def run_all(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Outcome]]:
    """Each job with its outcome, as they are finished; `workers` processes share the cores."""
    try:
        with cluster_client(min(workers, len(jobs)), "") as (client, threads):
            yield from performed(client, [replace(job, threads=threads) for job in jobs])
    except KeyboardInterrupt:
        for job in jobs:
            tidy(job.folder)
        raise


def _told(outcomes: Iterator[tuple[Job, Outcome]], total: int) -> Iterator[tuple[Job, Outcome]]:
    """The same, a line of the log each."""
    for number, (job, outcome) in enumerate(outcomes, 1):
        place = f"{number} of {total}: {job.folder.name}"
        if outcome.state == "failed":
            _log.warning("%s failed: %s", place, outcome.error)
        else:
            _log.info("%s done in %.1f s", place, outcome.seconds)
        yield job, outcome


def _plan(studies: Iterable[Study], reports: Path, force: bool) -> _Plan:
    """Every run of the studies, checked; those that are finished have their outcome already."""
    runs = {study.name: runs_of(study) for study in studies}
    jobs: dict[str, Job] = {}
    for study in studies:
        for run in runs[study.name]:
            jobs.setdefault(run.key, _job(study, run, reports, force))
    outcomes = {} if force else {key: finished(job) for key, job in jobs.items()}
    return _Plan(reports, runs, jobs, {key: known for key, known in outcomes.items() if known})


def _job(study: Study, run: Run, reports: Path, force: bool) -> Job:
    about: dict[str, Any] = {"again": force, "place": str(Path.cwd())}
    if study.has_numbers:
        folder = reports / "runs" / "sweep" / run.folder
        return Job(run.notebook, folder, {**run.parameters, "out": str(folder)}, run.key, **about)
    # Beside the studies, where the gallery looks for pages that are no runs.
    folder = reports / f"{run.notebook.stem}-{run.folder}"
    title = f"{study.title} ({run.category})"
    about |= {"title": title, "has_numbers": False}
    return Job(run.notebook, folder, run.parameters, run.key, **about)


def _note(swept: Swept, job: Job, outcome: Outcome) -> None:
    if outcome.state == "failed":
        swept.failures[job.folder] = outcome.error


def _page(study: Study, reports: Path, threads: int) -> Job:
    folder = reports / "studies" / study.folder
    notebook = find_notebook(study.page, study.file.parent).resolve()
    about: dict[str, Any] = {"title": study.title, "threads": threads, "place": str(Path.cwd())}
    return Job(notebook, folder, {"study": str(folder)}, **about)


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
        "reference": study.reference,
        "published": study.published,
        "unavailable": unavailable(study),
        "runs": [
            {
                "cell": run.cell,
                "category": run.category,
                "seed": run.seed,
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
