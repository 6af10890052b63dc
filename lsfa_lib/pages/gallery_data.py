"""What a reports folder holds: finished runs, studies, other pages, and what cannot be shown."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from pathlib import Path

from lsfa_lib.config import config_hash, flat
from lsfa_lib.figures.findings import PLACES, Result, settings
from lsfa_lib.pages.page import last_line
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import read_result
from lsfa_lib.storage.study_record import StudyRecord, read_study

DAMAGE = (KeyError, TypeError, ValueError, AttributeError)
"""What reading a file raises that holds valid JSON, but not the expected content."""
Problem = tuple[str, str]
"""The place of something that is not shown, and a sentence on what to do about it."""


@dataclass(frozen=True)
class RunEntry:
    """A finished run as the gallery shows it."""

    place: str
    """`runs/sweep/biscuit-demo-s0`: its folder below the reports."""
    result: Result

    @property
    def group(self) -> str:
        """Its settings in words: preset, image size, losses, shots, changed fields."""
        return ", ".join(settings(self.result))

    @property
    def key(self) -> str:
        """Equal for runs that may be averaged with each other: of one group and one config."""
        config = {n: v for n, v in flat(self.result["config"]) if n not in PLACES}
        return f"{self.group} ({config_hash(config)[:6]})"


@dataclass(frozen=True)
class Contents:
    """The contents of a reports folder."""

    runs: list[RunEntry]
    studies: list[StudyRecord]
    pages: list[tuple[str, str]]
    """(title, address) of other pages."""
    problems: list[Problem]

    def of_study(self, name: str) -> Contents:
        """That study and its runs alone. Raises InputError for a name that is no study's."""
        same = [study for study in self.studies if name in (study.name, study.folder.name)]
        if len(same) != 1:
            known = ", ".join(study.folder.name for study in self.studies)
            raise InputError(
                f"study {name!r} does not exist; choose one of {known}"
                if known
                else f"study {name!r} does not exist; `lsfa sweep` makes studies"
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
    runs, problems = _runs(reports)
    studies, more_problems = _studies(reports)
    pages = [
        (_title(page), f"{page.parent.name}/{page.name}")
        for page in sorted(reports.glob("*/report.html"))
    ]
    return Contents(runs, studies, pages, problems + more_problems)


def _runs(reports: Path) -> tuple[list[RunEntry], list[Problem]]:
    """Finished runs by folder name, and what to do about the others."""
    entries, problems = [], []
    for folder in sorted(path for path in reports.glob("runs/*/*") if path.is_dir()):
        place, name = folder.relative_to(reports).as_posix(), "/".join(folder.parts[-2:])
        swept = folder.parent.name == "sweep"
        again = "start the sweep again" if swept else "run it again"
        # A sweep's run is finished when run.json, its last file, exists.
        files = ["result.json", "run.json"] if swept else ["result.json"]
        missing = [file for file in files if not (folder / file).exists()]
        if (folder / "notebook-failed.ipynb").exists() or (folder / "error.txt").exists():
            failure = f"its last attempt failed{_why(folder)}; fix that and {again}"
            problems.append((place, f"{name}: {failure}"))
        elif missing:
            problems.append((place, f"{name}: unfinished, {missing[0]} is missing; {again}"))
        if not missing:
            try:
                entries.append(RunEntry(place, read_result(folder / "result.json")))
            except InputError as error:
                problems.append((place, str(error).replace(str(folder), name)))
    return entries, problems


def _studies(reports: Path) -> tuple[list[StudyRecord], list[Problem]]:
    """Studies, newest first, and what to do about those that failed or cannot be read."""
    entries: list[StudyRecord] = []
    problems = []
    for folder in sorted(path for path in reports.glob("studies/*") if path.is_dir()):
        place = folder.relative_to(reports).as_posix()
        if (folder / "notebook-failed.ipynb").exists():
            failure = f"its page failed{_why(folder)}; fix that and start the sweep again"
            problems.append((place, f"{place}: {failure}"))
        if not (folder / "study.json").exists():
            missing = "unfinished, study.json is missing; start the sweep again"
            problems.append((place, f"{place}: {missing}"))
            continue
        try:
            entries.append(read_study(folder / "study.json"))
        except InputError as error:
            problems.append((place, str(error).replace(str(folder), place)))
    entries.sort(key=lambda entry: (entry.created.timestamp(), entry.folder.name), reverse=True)
    return entries, problems


def _why(folder: Path) -> str:
    try:
        error = last_line((folder / "error.txt").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        error = ""
    return f" with {error.rstrip('.')}" if error else " (see notebook-failed.ipynb)"


def _title(page: Path) -> str:
    with page.open(encoding="utf-8", errors="replace") as file:
        found = re.search(r"<title>(.*?)</title>", file.read(4000), re.DOTALL)
    return html.unescape(found[1]).strip() if found else page.parent.name
