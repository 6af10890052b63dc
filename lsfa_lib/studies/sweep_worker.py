"""What a worker does: executes a notebook, renders its page, and marks both as finished."""

from __future__ import annotations

import re
import time
import traceback
from contextlib import chdir, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import get_worker
from tqdm import tqdm

from lsfa_lib.storage.files import InputError, Listener, atomic_write, locked, progress_reported_to
from lsfa_lib.storage.kept_maps import FILE
from lsfa_lib.storage.results import (
    SCHEMA,
    peak_memory_mb,
    read_json,
    read_result,
    reset_peak_memory,
    write_json,
)
from lsfa_lib.studies.study_runs import Job

FAILED, TRACEBACK = "notebook-failed.ipynb", "error.txt"
TOPIC, EVERY_S = "lsfa-progress", 1.0
"""Of dask's events: where a run is, at most once a second."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    error: str = ""
    """One sentence where it failed; the traceback is in the folder's error.txt."""
    seconds: float = 0.0
    reused: bool = False
    """It was finished before, or by another sweep."""
    peak_mb: float = 0.0
    """Largest memory of the process that executed it; 0 if not known."""
    killed: bool = False
    """Each process that executed it was killed."""


def perform(job: Job) -> Outcome | None:
    """Executes a job's notebook in this process and renders its page.

    Nothing is raised: a job that fails leaves notebook-failed.ipynb and error.txt in its folder.
    None where another sweep executes it and the job does not wait; a job that waits finds it done.
    """
    try:
        with locked(job.folder, wait=job.wait_for_lock), chdir(job.place):
            if job.key and not job.again and (before := finished(job)):
                return before
            return _execute(job)
    except BlockingIOError:
        return None
    except Exception as error:
        return replace(failed(job.folder, error), peak_mb=peak_memory_mb())


def _execute(job: Job) -> Outcome:
    from lsfa_lib.notebooks.run import execute  # here: the process that sends jobs needs neither
    from lsfa_lib.pages import report

    start = time.perf_counter()
    marks = ("run.json", "result.json", FILE, ".partial-*") if job.key else ()
    clear(job.folder, (*marks, TRACEBACK, ".partial-*.ipynb"))
    reset_peak_memory()
    with progress_reported_to(_reporter(job.folder.name)):
        page = execute(job.notebook, job.folder, job.parameters, kernel=False)
    if job.key and job.has_numbers and not (job.folder / "result.json").exists():
        raise InputError(
            f"{job.notebook} did not write result.json to its folder `out`; "
            "call lsfa_lib.storage.results.write_result in it"
        )
    report.render(page, job.folder / "report.html", title=job.title)
    seconds = time.perf_counter() - start
    if job.key:
        about = {"schema": SCHEMA, "key": job.key, "notebook": job.notebook.stem}
        about |= {"parameters": job.parameters, "seconds": seconds}
        # Last of all: with it the run is finished.
        write_json(job.folder / "run.json", about)
    return Outcome(seconds=seconds, peak_mb=peak_memory_mb())


def _reporter(run: str) -> Listener:
    """A listener that sends where a run is, such as `train adaptors, step 23 of 50, 00:12 left`.

    The time is what is left of the stage, by its steps so far.
    """
    try:
        worker: Any = get_worker()
    except ValueError:  # Not on a worker: nobody watches.
        return lambda label, done, total: None
    stage, began, sent = "", 0.0, 0.0

    def listen(label: str, done: int, total: int) -> None:
        nonlocal stage, began, sent
        now = time.monotonic()
        stage = stage if total else label
        began = began if done else now
        if done and now - sent < EVERY_S:
            return
        where = stage or label
        where += f", step {done} of {total}" if total else ""
        if done and total:
            left = (now - began) / done * (total - done)
            where += f", {tqdm.format_interval(round(left))} left"
        sent = now
        worker.log_event(TOPIC, {"said": [run, where]})

    return listen


def finished(job: Job) -> Outcome | None:
    """The outcome of a run, if it was finished in its folder."""
    try:
        about = read_json(job.folder / "run.json", "is damaged", "it is executed again")
        if about["key"] != job.key:
            return None
        result = read_result(job.folder / "result.json") if job.has_numbers else {}
        peak_mb = float(result.get("peak_memory_mb", 0.0))
        return Outcome(seconds=float(about["seconds"]), reused=True, peak_mb=peak_mb)
    except (ValueError, KeyError, TypeError):
        return None  # Half-written, damaged or of another version: it is executed again.


def failed(folder: Path, error: BaseException) -> Outcome:
    """Writes error.txt with the traceback; the outcome carries its sentence."""
    reason = error.__cause__ if isinstance(error, InputError) else None
    sentence = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    sentence = " ".join(plain(sentence).split())
    # papermill's exceptions have the traceback of the notebook.
    lines = getattr(reason, "traceback", None) or traceback.format_exception(error)
    trace = "\n".join(map(str.rstrip, lines))
    with suppress(InputError, OSError), atomic_write(folder / TRACEBACK) as file:
        file.write_text(f"{sentence}\n\n{plain(trace)}\n", encoding="utf-8")
    return Outcome(sentence)


def lost(folder: Path, deaths: int) -> Outcome:
    """The outcome of a run whose worker died each time; what it had executed is kept."""
    left = sorted(folder.glob(".partial-*.ipynb"), key=lambda path: path.stat().st_mtime)
    if left:
        left[-1].replace(folder / FAILED)
    clear(folder, (".partial-*",))
    kept = f" (the cells up to then: {folder / FAILED})" if left else ""
    error = InputError(
        f"its worker process was killed {deaths} times, most likely for lack of memory; choose "
        f"a smaller image size or fewer workers{kept}"
    )
    return replace(failed(folder, error), killed=True)


def clear(folder: Path, patterns: tuple[str, ...]) -> None:
    """Deletes the files of these names in `folder`."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def plain(text: str) -> str:
    """`text` without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def tidy(folder: Path) -> None:
    """Deletes what a stopped run left half-written, unless another process uses `folder`."""
    with suppress(BlockingIOError), locked(folder, wait=False):
        clear(folder, (".partial-*",))
