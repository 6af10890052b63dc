"""What a reports folder holds: finished runs, studies, other pages, and what is wrong elsewhere."""

from __future__ import annotations

import html
import json
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lsfa_lib.config import config_hash, flat
from lsfa_lib.figures.findings import PLACES, Result, settings
from lsfa_lib.pages.page import day, without_folders
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import read_result

STUDY_SCHEMA = 1
DAMAGE = (KeyError, TypeError, ValueError, AttributeError)
"""What reading a file raises that holds valid JSON, but not what it should."""
Problem = tuple[str, str]
"""The place of something that is not shown, and a sentence on what to do about it."""


@dataclass(frozen=True)
class RunEntry:
    """A finished run as the gallery shows it."""

    folder: Path
    result: Result

    @property
    def place(self) -> str:
        """`runs/sweep/biscuit-demo-s0`: its folder below the reports, by which pages know it."""
        return place_of(self.folder)

    @property
    def group(self) -> str:
        """What its numbers follow from, in words: preset, image size, losses, shots, changes."""
        return ", ".join(settings(self.result))

    @property
    def key(self) -> str:
        """Equal for runs that may be averaged with each other: of one group and one config."""
        config = {n: v for n, v in flat(self.result["config"]) if n not in PLACES}
        return f"{self.group} ({config_hash(config)[:6]})"


@dataclass(frozen=True)
class StudyRun:
    """A run of a study; `error` is the last line of what it failed with."""

    cell: str
    category: str
    seed: int
    place: str
    done: bool
    error: str


@dataclass(frozen=True)
class StudyEntry:
    """A study that was swept, as study.json tells of it."""

    folder: Path
    study: str
    title: str
    preset: str
    finding: str
    created: str
    cells: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[StudyRun, ...]

    @property
    def name(self) -> str:
        """Name of its folder: the study's with the preset."""
        return self.folder.name

    @property
    def failed(self) -> list[StudyRun]:
        """The runs that were not finished."""
        return [run for run in self.runs if not run.done]


@dataclass(frozen=True)
class Contents:
    """All of a reports folder."""

    runs: list[RunEntry]
    studies: list[StudyEntry]
    pages: list[tuple[str, Path]]
    problems: list[Problem]

    def of_study(self, name: str) -> Contents:
        """That study and its runs alone. InputError where there is no such study."""
        same = [study for study in self.studies if name in (study.name, study.study)]
        if len(same) != 1:
            there = ", ".join(study.name for study in self.studies)
            raise InputError(
                f"study {name!r} is not one of those here: {there}"
                if there
                else f"there is no study {name!r} here; `lsfa sweep` makes the first ones"
            )
        places = {run.place for run in same[0].runs}
        return replace(
            self,
            runs=[run for run in self.runs if run.place in places],
            studies=same,
            pages=[],
            problems=[problem for problem in self.problems if problem[0] in places],
        )


def find_contents(reports: Path) -> Contents:
    """What a reports folder holds, and one sentence about each thing that cannot be shown."""
    runs, problems = find_runs(reports)
    studies, wrong = find_studies(reports)
    return Contents(runs, studies, find_pages(reports), problems + wrong)


def find_runs(reports: Path) -> tuple[list[RunEntry], list[Problem]]:
    """Finished runs by folder name, and what is to be done about the others."""
    entries, problems = [], []
    for folder in sorted(path for path in reports.glob("runs/*/*") if path.is_dir()):
        name, place = f"{folder.parent.name}/{folder.name}", place_of(folder)
        if sentence := _unfinished(folder):
            problems.append((place, f"{name}: {sentence}"))
        if not _is_finished(folder):
            continue
        try:
            entries.append(RunEntry(folder, read_result(folder / "result.json")))
        except InputError as error:
            problems.append((place, str(error).replace(str(folder), name)))
    return entries, problems


def find_studies(reports: Path) -> tuple[list[StudyEntry], list[Problem]]:
    """Studies that were swept, newest first, and what is to be done about the others."""
    entries: list[StudyEntry] = []
    problems = []
    for folder in sorted(path for path in reports.glob("studies/*") if path.is_dir()):
        if (folder / "notebook-failed.ipynb").exists():
            sentence = f"its page failed{_why(folder)}; mend that and start the sweep again"
            problems.append((place_of(folder), f"{place_of(folder)}: {sentence}"))
        try:
            entries.append(read_study(folder / "study.json"))
        except InputError as error:
            text = str(error).replace(str(folder), place_of(folder))
            problems.append((place_of(folder), text))
    return sorted(entries, key=lambda e: (e.created, e.name), reverse=True), problems


def read_study(path: Path) -> StudyEntry:
    """The study that study.json tells of.

    InputError when it is missing, damaged or of another schema.
    """
    if not path.exists():
        raise InputError(f"{path.parent}: unfinished, it has no study.json; start the sweep again")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if (schema := about["schema"]) == STUDY_SCHEMA:
            return _entry(path.parent, about)
    except (OSError, *DAMAGE) as error:
        raise InputError(f"{path} is damaged; start the sweep of that study again") from error
    raise InputError(
        f"{path} has schema {schema}, this version reads {STUDY_SCHEMA}; sweep the study again"
    )


def find_pages(reports: Path) -> list[tuple[str, Path]]:
    """(title, path) of the other pages: reports/<name>/report.html."""
    return [(_title(path), path) for path in sorted(reports.glob("*/report.html"))]


def place_of(folder: Path) -> str:
    """A run's or study's folder below the reports, with forward slashes."""
    parts = 2 if folder.parent.name == "studies" else 3
    return "/".join(folder.parts[-parts:])


def last_line(traceback: str) -> str:
    """What a traceback ends with, without folders of this machine."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    return without_folders(lines[-1]) if lines else ""


def _entry(folder: Path, about: dict[str, Any]) -> StudyEntry:
    day(about["created"])
    runs = tuple(
        StudyRun(
            cell=str(run["cell"]),
            category=str(run["category"]),
            seed=int(run["seed"]),
            place=posixpath.normpath(posixpath.join(place_of(folder), run["folder"])),
            done=run["state"] == "done",
            error=last_line(run["error"]),
        )
        for run in about["runs"]
    )
    text = {name: str(about[name]) for name in ("title", "preset", "finding", "created")}
    return StudyEntry(
        folder=folder,
        study=str(about["name"]),
        **text,
        cells=tuple(map(str, about["cells"])),
        categories=tuple(map(str, about["categories"])),
        seeds=tuple(map(int, about["seeds"])),
        runs=runs,
    )


def _is_finished(folder: Path) -> bool:
    """A sweep's run is finished when run.json, its last file, is there."""
    last = "run.json" if folder.parent.name == "sweep" else "result.json"
    return (folder / last).exists() and (folder / "result.json").exists()


def _unfinished(folder: Path) -> str:
    again = "start the sweep again" if folder.parent.name == "sweep" else "run it again"
    if (folder / "notebook-failed.ipynb").exists() or (folder / "error.txt").exists():
        return f"its last attempt failed{_why(folder)}; mend that and {again}"
    if not (folder / "result.json").exists():
        return f"unfinished, it has no result.json; {again}"
    return "" if _is_finished(folder) else f"unfinished, it has no run.json; {again}"


def _why(folder: Path) -> str:
    try:
        said = last_line((folder / "error.txt").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        said = ""
    return f" with {said.rstrip('.')}" if said else ", notebook-failed.ipynb says where"


def _title(page: Path) -> str:
    with page.open(encoding="utf-8", errors="replace") as file:
        found = re.search(r"<title>(.*?)</title>", file.read(4000), re.DOTALL)
    return html.unescape(found[1]).strip() if found else page.parent.name
