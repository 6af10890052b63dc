"""A study: one question, the notebook that each run executes, and the cells to compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lsfa_lib.config import OURS, PRESETS, fields_of
from lsfa_lib.figures.findings import shown
from lsfa_lib.notebooks.find import find_notebook, notebook_names, parameters_of
from lsfa_lib.storage.files import InputError, nearest
from lsfa_lib.studies.published import ABLATIONS, published_file
from lsfa_lib.studies.study_file import Fields, Published, StudyFile, read_file, require_distinct

SHORTHANDS = ("only", "recipe")
"""Names that `configure` takes for several fields."""
SET_BY_SWEEP = {
    "category": "write `categories:`",
    "seed": "write `seeds:`",
    "out": "leave it out",
}
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
class Study:
    """A study to run: what a file says, with the choices of the command line applied."""

    run: Path
    """The notebook each run executes."""
    preset: str
    """Its name, or the path of a YAML file."""
    cells: dict[str, Fields]
    file: Path | None = None
    """None for the study of one cell behind `lsfa run`."""
    title: str = ""
    page: str = ""
    """The notebook executed at the end, by name; "" where there is none."""
    categories: tuple[str, ...] = ()
    """() takes every category of the data."""
    seeds: tuple[int, ...] = (0,)
    parameters: Fields = field(default_factory=dict)
    """Of every run; those of a cell come before them."""
    grid: tuple[Fields, ...] = ({},)
    """Each cell is run at all of these points; tables average over them."""
    reference: str = ""
    control: str = ""
    published: Published = field(default_factory=Published)
    choices: Choices = field(default_factory=Choices)

    @property
    def name(self) -> str:
        """As its file is called."""
        return self.file.stem if self.file else ""

    @property
    def folder(self) -> str:
        """Name of the folder for its tables and its page."""
        size = self.choices.fields.get("preprocess.image_size")
        return f"{self.name}-{self.preset_name}" + (f"-{size}px" if size else "")

    @property
    def preset_name(self) -> str:
        """The preset's name, or the file's."""
        return self.preset if self.preset in PRESETS else Path(self.preset).stem

    @property
    def declared(self) -> dict[str, str]:
        """Parameters of the run notebook, with their types."""
        return parameters_of(self.run)

    @property
    def has_numbers(self) -> bool:
        """False where the run notebook has no `out`: its runs are pages, and no table follows."""
        return "out" in self.declared

    def where(self, cell: str = "") -> str:
        """How error sentences begin."""
        if self.file is None:
            return ""
        return f"{self.file}: cell {cell!r}: " if cell else f"{self.file}: "

    def given(self, cell: str, point: Fields) -> Fields:
        """Fields and parameters of a cell's runs: the study's, the command line's, its own."""
        given = self.parameters | {"preset": self.preset} | self.choices.fields
        given |= self.cells[cell] | point
        folder = self.file.parent if self.file else Path()
        return given | {"preset": known_preset(given["preset"], folder, self.where(cell))}


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
    if file.include:
        return [
            study for name in file.include for study in _read(path.parent / name, choices, inner)
        ]
    return [_study(path, file, choices)]


def _study(path: Path, file: StudyFile, choices: Choices) -> Study:
    run, cells, grid = _notebook(path, file.run), file.cells, _combined(file.grid)
    if not cells and not file.grid:
        raise InputError(f"{path} has neither `cells` nor `grid` with anything in; write one cell")
    if not cells:
        cells, grid = {cell_name(point): point for point in grid}, [{}]
    named, seeds = choices.categories or file.categories, choices.seeds or tuple(file.seeds)
    preset = known_preset(file.preset, path.parent, f"{path}: preset: ")
    study = Study(
        file=path,
        title=file.title or path.stem,
        run=run,
        page=file.page,
        preset=known_preset(choices.preset, Path(), "--preset: ") if choices.preset else preset,
        categories=() if named in ("all", ("all",)) else tuple(named),
        seeds=seeds if "seed" in parameters_of(run) else seeds[:1],
        parameters=_flat(path, "`parameters`", file.parameters),
        cells={name: _flat(path, f"cell {name!r}", given) for name, given in cells.items()},
        grid=tuple(_flat(path, "grid", point) for point in grid),
        reference=file.reference or next(iter(cells)),
        control=file.control,
        published=file.published,
        choices=choices,
    )
    _check_notebooks(study)
    _check_names(study)
    require_distinct(path, "categories", study.categories)
    require_distinct(path, "seeds", study.seeds)
    return study


def _combined(grid: dict[str, list[Any]]) -> list[Fields]:
    """Every combination of a grid's values; one empty point for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _flat(path: Path, where: str, given: Fields) -> Fields:
    """`given` with the fields that stand under `fields:`, as in earlier study files."""
    nested = given.get("fields", {})
    if not isinstance(nested, dict):
        raise InputError(f"{path}: {where}: fields is {nested!r}, wanted indented fields")
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
        near = nearest(value, PRESETS)
        raise InputError(f"{where}there is no preset {value!r}; the nearest is {near}")
    path = (folder / value).resolve()
    if not path.exists():
        raise InputError(f"{where}{path} was not found; give its path from {folder.resolve()}")
    return str(path)


def _notebook(path: Path, name: str) -> Path:
    """The notebook of the project by name, or one given by its path from the study file."""
    if not name.endswith(".ipynb"):
        _require_known(name, notebook_names(), f"{path}: notebook: there is no notebook")
    return find_notebook(name, path.parent)


def _require_known(name: str, known: Iterable[str], sentence: str) -> None:
    """Raises InputError, `sentence` with the name and the nearest one, where it is not known."""
    known = list(known)
    if name not in known:
        raise InputError(f"{sentence} {name!r}; the nearest is {nearest(name, known)}")


def _check_notebooks(study: Study) -> None:
    """Raises InputError for a run or page notebook that lacks a parameter it is given."""
    run, page = study.run, study.page
    for name in ("category", "seed") if study.has_numbers else ("category",):
        if name not in study.declared:
            raise InputError(f"{run} has no parameter `{name}`, which every run is given; add it")
    if page and not study.has_numbers:
        raise InputError(
            f"{study.where()}{run.stem} has no parameter `out` and writes no numbers; remove `page`"
        )
    assert study.file
    if page and "study" not in parameters_of(_notebook(study.file, page)):
        raise InputError(
            f"{study.where()}page {page} has no parameter `study`; choose another notebook"
        )


def _check_names(study: Study) -> None:
    """Raises InputError for a cell, row, field or parameter that does not exist."""
    where = study.where()
    for name, cell in {"reference": study.reference, "control": study.control}.items():
        if cell:
            _require_known(cell, study.cells, f"{where}{name}: there is no cell")
    about = study.published
    if about.table or about.rows:
        lines = published_file(ABLATIONS)
        tables = dict.fromkeys(line["table"] for line in lines)
        _require_known(about.table, tables, f"{where}published.table: there is no table")
        rows = [line["setting"] for line in lines if line["table"] == about.table]
        for cell, row in about.rows.items():
            _require_known(cell, study.cells, f"{where}published.rows: there is no cell")
            _require_known(row, rows, f"{where}published.rows of {about.table}: there is no row")
    if "preset" in study.parameters:
        raise InputError(f"{where}`parameters` gives preset; write it as `preset:` above")
    _check_given(study, "`parameters`", study.parameters)
    for cell, given in study.cells.items():
        _check_given(study, f"cell {cell!r}", given)
    for point in study.grid:
        _check_given(study, "grid", point)


def _check_given(study: Study, where: str, given: Fields) -> None:
    """Raises InputError for a name that is neither a parameter nor a field, or a wrong type."""
    where, declared = f"{study.where()}{where}", study.declared
    fields = [*fields_of(OURS), *asdict(OURS), *SHORTHANDS]
    for name, value in given.items():
        if name in SET_BY_SWEEP:
            raise InputError(f"{where} gives {name}, which the sweep sets; {SET_BY_SWEEP[name]}")
        if name in declared:
            if not _is_a(value, declared[name]):
                raise InputError(f"{where}: {name} is {value!r}, wanted {declared[name]}")
        elif "fields" not in declared and (name in fields or "." in name):
            raise InputError(
                f"{where} gives {name}, but {study.run.name} has no parameter `fields`; add it"
            )
        elif "." not in name:
            # Names with dots are checked with their values, when the cell's config is made.
            sentence = f"{where}: there is no field or parameter"
            _require_known(name, [*declared, *fields, "preset"], sentence)


def _is_a(value: Any, wanted: str) -> bool:
    """Whether a value from YAML is of the type a notebook declares; types that are unknown pass."""
    kind = wanted.partition("[")[0]
    if kind == "float":
        return type(value) in (int, float)
    types: dict[str, type] = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}
    return kind not in types or type(value) is types[kind]
