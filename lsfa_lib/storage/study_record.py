"""study.json: a study, its runs and how each ended; sweeps write it, tables and pages read it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pydantic

from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import read_json

Key = tuple[str, str, int, int]
"""Cell, category, seed, and the point of the grid."""


@dataclass(frozen=True)
class StudyRun:
    """A run of a study; `folder` is relative to the study's."""

    cell: str
    category: str
    seed: int
    folder: str
    state: str
    """done or failed."""
    error: str
    point: int = 0
    """Of the study's grid."""

    @property
    def key(self) -> Key:
        """What identifies the run within its study."""
        return self.cell, self.category, self.seed, self.point

    @property
    def trial(self) -> str:
        """`seed 0`, or `seed 0, point 2` at the second point of a grid."""
        return f"seed {self.seed}" + (f", point {self.point + 1}" if self.point else "")

    @property
    def place(self) -> str:
        """Its folder below the reports."""
        return posixpath.normpath(posixpath.join("studies/study", self.folder))

    @property
    def done(self) -> bool:
        """Whether it was finished."""
        return self.state == "done"


@dataclass(frozen=True)
class StudyRecord:
    """A study as its study.json describes it."""

    folder: Path
    name: str
    title: str
    preset: str
    finding: str
    created: datetime
    cells: dict[str, Any]
    categories: list[str]
    seeds: list[int]
    runs: list[StudyRun]
    reference: str = ""
    control: str = ""
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    published: dict[str, Any] | None = None
    """`table` and, by cell, `rows` of a table of the paper."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """What to install, by cell that could not be run."""

    @property
    def place(self) -> str:
        """Its folder below the reports."""
        return f"studies/{self.folder.name}"

    @property
    def failed(self) -> list[StudyRun]:
        """The runs that were not finished."""
        return [run for run in self.runs if not run.done]


def read_study(path: Path) -> StudyRecord:
    """The study in a study.json. Raises InputError if it is damaged or of another schema."""
    damaged = "is damaged; start the sweep of that study again"
    about = read_json(path, damaged, "sweep the study again")
    try:
        return pydantic.TypeAdapter(StudyRecord).validate_python({**about, "folder": path.parent})
    except pydantic.ValidationError as error:
        raise InputError(f"{path} {damaged}") from error
