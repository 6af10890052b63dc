"""A study: one question, the notebook that each run executes, and the cells to compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from lsfa_lib.config import OURS, PRESETS, fields_of
from lsfa_lib.config.build import joined
from lsfa_lib.figures.findings import shown
from lsfa_lib.notebooks.find import find_notebook, notebook_names, parameters_of
from lsfa_lib.storage.files import InputError, nearest
from lsfa_lib.studies.published import ABLATIONS, published_file
from lsfa_lib.studies.study_file import Fields, StudyFile, read_file, require_distinct

FIELDS = (*fields_of(OURS), *asdict(OURS), "only", "recipe")
"""Names `configure` takes: fields, their sections, and shorthands for several."""
SET_BY_SWEEP = {"category": "write `categories:`", "seed": "write `seeds:`", "out": "leave it out"}
"""Parameters of the run notebook that no study file gives, and what to do instead."""


@dataclass(frozen=True)
class Choices:
    """What the command line says; what is empty is left to the study file."""

    preset: str = ""
    categories: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    fields: Fields = field(default_factory=dict)
    """Such as {"data.root": "data/mvtec3d"}; they override the file's `parameters`, not cells."""


@dataclass(frozen=True)
class Study(StudyFile):
    """A study to run: what a file says, with the choices of the command line applied."""

    path: Path | None = None
    """Its file; None for the study of one cell behind `lsfa run`."""
    chosen: Fields = field(default_factory=dict)
    """Fields of the command line."""

    @property
    def name(self) -> str:
        """As its file is called."""
        return self.path.stem if self.path else ""

    @property
    def folder(self) -> str:
        """Name of the folder for its tables and its page."""
        size = self.chosen.get("preprocess.image_size")
        return f"{self.name}-{Path(self.preset).stem}" + (f"-{size}px" if size else "")

    @cached_property
    def notebook(self) -> Path:
        """The notebook each run executes."""
        return self.find(self.run)

    @cached_property
    def declared(self) -> dict[str, str]:
        """Parameters of the run notebook, with their types."""
        return parameters_of(self.notebook)

    @property
    def has_numbers(self) -> bool:
        """False where the run notebook has no `out`: its runs are pages, and no table follows."""
        return "out" in self.declared

    @cached_property
    def points(self) -> list[Fields]:
        """What each cell is run with, one after the other: the grid's combinations."""
        return [_flat(self.where("grid"), point) for point in _combined(self.grid)]

    def where(self, what: str = "") -> str:
        """How error sentences begin: the file, and what it is about."""
        return "".join(f"{part}: " for part in (self.path, what) if part and self.path)

    def find(self, name: str) -> Path:
        """A notebook of the project by name, or one given by its path from the study file."""
        if not name.endswith(".ipynb"):
            known = f"{self.where('notebook')}there is no notebook"
            _require_known(name, notebook_names(), known)
        return find_notebook(name, self.path.parent if self.path else None)

    def given(self, cell: str, point: Fields) -> Fields:
        """Fields and parameters of a cell's runs: the study's, the command line's, its own."""
        levels = (self.parameters, {"preset": self.preset}, self.chosen, self.cells[cell], point)
        given: Fields = reduce(joined, levels)
        folder = self.path.parent if self.path else Path()
        preset = known_preset(given["preset"], folder, self.where(f"cell {cell!r}"))
        return given | {"preset": preset}


def read_studies(path: Path, choices: Choices | None = None) -> list[Study]:
    """The study in a file, or all those it includes.

    Raises InputError, naming the file and what to change, for whatever is wrong in the file itself.
    """
    studies = _read(path, choices or Choices(), ())
    names = [study.name for study in studies]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} includes a study called {name} twice; remove or rename one")
    return studies


def _read(path: Path, choices: Choices, above: tuple[Path, ...]) -> list[Study]:
    if path.resolve() in above:
        chain = " -> ".join(file.name for file in (*above, path))
        raise InputError(f"{path} includes itself ({chain}); remove one `include`")
    file, inner = read_file(path), (*above, path.resolve())
    if not file.include:
        return [_study(path, file, choices)]
    return [study for name in file.include for study in _read(path.parent / name, choices, inner)]


def _study(path: Path, file: StudyFile, choices: Choices) -> Study:
    if not file.cells and not file.grid:
        raise InputError(f"{path} has no settings to run; add at least one to `cells` or `grid`")
    cells = file.cells or {cell_name(point): point for point in _combined(file.grid)}
    preset = known_preset(file.preset, path.parent, f"{path}: preset: ")
    named = list(choices.categories) or file.categories
    own: dict[str, Any] = {
        "title": file.title or path.stem,
        "preset": known_preset(choices.preset, Path(), "--preset: ") if choices.preset else preset,
        "categories": "all" if named == ["all"] else named,
        "seeds": list(choices.seeds) or file.seeds,
        "parameters": _flat(f"{path}: `parameters`: ", file.parameters),
        "cells": {name: _flat(f"{path}: cell {name!r}: ", own) for name, own in cells.items()},
        "grid": file.grid if file.cells else {},
        "reference": file.reference or next(iter(cells)),
    }
    study = Study(**{**vars(file), **own}, path=path, chosen=choices.fields)
    _check_notebooks(study)
    _check_names(study)
    for name in ("categories", "seeds"):
        if own[name] != "all":
            require_distinct(path, name, own[name])
    return study


def _combined(grid: dict[str, list[Any]]) -> list[Fields]:
    """Every combination of a grid's values; one empty point for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _flat(where: str, given: Fields) -> Fields:
    """`given` with the fields that stand under `fields:`, as in earlier study files."""
    nested = given.get("fields", {})
    if not isinstance(nested, dict):
        raise InputError(f"{where}fields is {nested!r}, expected indented fields")
    return {name: value for name, value in given.items() if name != "fields"} | nested


def cell_name(given: Fields) -> str:
    """What a grid's cell is called: `only IFC, shots 5`."""
    said = []
    for name, value in given.items():
        pairs = value.items() if isinstance(value, dict) else [(name, value)]
        said += [f"{inner} {shown(entry)}" for inner, entry in pairs] or [f"no {name}"]
    return ", ".join(said)


def known_preset(value: str, folder: Path, where: str) -> str:
    """A preset's name, or the absolute path of a YAML file given from `folder`."""
    if value in PRESETS:
        return value
    if Path(value).suffix not in (".yaml", ".yml"):
        _require_known(value, PRESETS, f"{where}there is no preset")
    path = (folder / value).resolve()
    if not path.exists():
        raise InputError(f"{where}{path} was not found; give its path from {folder.resolve()}")
    return str(path)


def _require_known(name: str, known: Iterable[str], sentence: str) -> None:
    """Raises InputError, `sentence` with the name and the nearest one, where it is not known."""
    if name not in (known := list(known)):
        raise InputError(f"{sentence} {name!r}; the nearest is {nearest(name, known)}")


def _check_notebooks(study: Study) -> None:
    """Raises InputError for a run or page notebook that lacks a parameter it is given."""
    for name in ("category", "seed") if study.has_numbers else ("category",):
        if name not in study.declared:
            raise InputError(
                f"{study.notebook} has no parameter `{name}`, which every run is given; add it"
            )
    if study.page and not study.has_numbers:
        raise InputError(
            f"{study.where()}{study.notebook.stem} has no parameter `out` and writes no numbers; "
            "remove `page`"
        )
    if study.page and "study" not in parameters_of(study.find(study.page)):
        raise InputError(
            f"{study.where()}page {study.page} has no parameter `study`; choose another notebook"
        )


def _check_names(study: Study) -> None:
    """Raises InputError for a cell, row, field or parameter that does not exist."""
    about, cells = study.published, {"reference": study.reference}
    cells |= {"control": study.control} if study.control else {}
    for name, cell in (*cells.items(), *(("published.rows", cell) for cell in about.rows)):
        _require_known(cell, study.cells, f"{study.where(name)}there is no cell")
    if about.table or about.rows:
        lines = published_file(ABLATIONS)
        tables = dict.fromkeys(line["table"] for line in lines)
        _require_known(about.table, tables, f"{study.where('published.table')}there is no table")
        where = study.where(f"published.rows of {about.table}")
        for row in about.rows.values():
            rows = [line["setting"] for line in lines if line["table"] == about.table]
            _require_known(row, rows, f"{where}there is no row")
    if "preset" in study.parameters:
        raise InputError(f"{study.where()}`parameters` gives preset; write it as `preset:` above")
    _check_given(study, "`parameters`", study.parameters)
    for cell, given in study.cells.items():
        _check_given(study, f"cell {cell!r}", given)
    _check_given(study, "grid", study.points[0])


def _check_given(study: Study, what: str, given: Fields) -> None:
    """Raises InputError for a name that is neither a parameter nor a field, or a wrong type."""
    where, declared = study.where(what), study.declared
    for name, value in given.items():
        if name in SET_BY_SWEEP:
            raise InputError(f"{where}{name} is set by the sweep; {SET_BY_SWEEP[name]}")
        if name in declared:
            if not _is_a(value, declared[name]):
                raise InputError(f"{where}{name} is {value!r}, expected {declared[name]}")
        elif "fields" not in declared and (name in FIELDS or "." in name):
            raise InputError(
                f"{where}{name} needs a parameter `fields` in {study.notebook.name}; add it"
            )
        elif "." not in name:
            # Names with dots are checked with their values, when the cell's config is made.
            known = [*declared, *FIELDS, "preset"]
            _require_known(name, known, f"{where}there is no field or parameter")


def _is_a(value: Any, declared: str) -> bool:
    """Whether a value from YAML is of the type a notebook declares; types that are unknown pass."""
    kind = declared.partition("[")[0]
    if kind == "float":
        return type(value) in (int, float)
    types: dict[str, type] = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}
    return kind not in types or type(value) is types[kind]
