"""A study file: one question, the notebook that each run executes, and the cells to compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import papermill

from lsfa_lib.config import PRESETS
from lsfa_lib.figures.findings import shown
from lsfa_lib.notebooks.run import find_notebook, notebook_names
from lsfa_lib.storage.files import InputError
from lsfa_lib.studies.study_fields import Fields, nearest, read_yaml
from lsfa_lib.studies.study_table import published_file

FIELDS = (
    *("title", "run", "page", "preset", "categories", "seeds", "parameters"),
    *("cells", "grid", "reference", "published", "include"),
)
SHARED = "`parameters`"
TABLES = "lsfa_ablations"
SET_BY_SWEEP = {
    "category": "write `categories:`",
    "seed": "write `seeds:`",
    "out": "leave it out",
    "data_root": "give `--data`",
    "device": "give `--device`",
}
"""Parameters of the run notebook that no study file gives, and what to do instead."""


@dataclass(frozen=True)
class Choices:
    """What the command line says; "", 0, () and `auto` leave it to the study file."""

    preset: str = ""
    data_root: str = ""
    categories: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    device: str = "auto"
    image_size: int = 0


@dataclass(frozen=True)
class Study:
    """A study file that was read, with the choices of the command line in their places."""

    file: Path
    title: str
    run: Path
    """The notebook each run executes."""
    page: str
    """The notebook executed at the end, by name; "" where there is none."""
    preset: str
    """Its name, or the path of a YAML file."""
    categories: tuple[str, ...]
    """() takes every category of the data."""
    seeds: tuple[int, ...]
    parameters: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    reference: str
    published: dict[str, Any] | None
    choices: Choices = field(default_factory=Choices)
    has_numbers: bool = True
    """False where the run notebook has no `out`: each run gives a page, and no table follows."""

    @property
    def name(self) -> str:
        """As its file is called."""
        return self.file.stem

    @property
    def folder(self) -> str:
        """Name of the folder for its tables and its page."""
        size = f"-{self.choices.image_size}px" if self.choices.image_size else ""
        return f"{self.name}-{self.preset_name}{size}"

    @property
    def preset_name(self) -> str:
        """The preset's name, or the file's."""
        return self.preset if self.preset in PRESETS else Path(self.preset).stem


def read_studies(path: Path, choices: Choices | None = None) -> list[Study]:
    """The study in a file, or all those it includes.

    Raises InputError, naming the file and what to change, for whatever is wrong in the file itself.
    """
    studies = _read(path, choices or Choices(), ())
    names = [study.name for study in studies]
    for study in studies:
        if names.count(study.name) > 1:
            raise InputError(
                f"{path} includes a study called {study.name} twice; take one out or rename it"
            )
    return studies


def _read(path: Path, choices: Choices, above: tuple[Path, ...]) -> list[Study]:
    if path.resolve() in above:
        chain = " -> ".join(file.name for file in (*above, path))
        raise InputError(f"{path} includes itself ({chain}); take one `include` out")
    values = read_yaml(path)
    if "include" not in values:
        return [_study(Fields(path, values, FIELDS), choices)]
    fields = Fields(path, values, FIELDS)
    if len(values) > 1:
        other = next(name for name in values if name != "include")
        raise InputError(f"{path}: `include` stands alone; move `{other}` to another study file")
    included = fields.take("include", list, [])
    if not included:
        raise InputError(f"{path}: `include` lists no study file; write at least one")
    inner = (*above, path.resolve())
    return [study for name in included for study in _read(path.parent / str(name), choices, inner)]


def _study(fields: Fields, choices: Choices) -> Study:
    path = fields.path
    if choices.preset:
        preset = known_preset(choices.preset, Path(), "--preset")
    else:
        preset = known_preset(fields.take("preset", str, "demo"), path.parent, f"{path}: preset")
    run = _notebook(fields, fields.take("run", str, "00_quickstart"))
    page = fields.take("page", str, "")
    declared = notebook_parameters(run)
    has_numbers = "out" in declared
    for name in ("category", "seed") if has_numbers else ("category",):
        if name not in declared:
            raise InputError(f"{run} has no parameter `{name}`, which every run is given; add it")
    if page and not has_numbers:
        raise InputError(
            f"{path}: {run.stem} has no parameter `out` and writes no numbers; take `page` out"
        )
    if page and "study" not in notebook_parameters(_notebook(fields, page)):
        raise InputError(f"{path}: page {page} has no parameter `study`; choose another notebook")
    cells = _cells(fields)
    for name, given in {"": fields.take("parameters", dict, {}), **cells}.items():
        where = f"cell {name!r}" if name else SHARED
        _check_parameters(fields, where, given, declared)
    reference = str(fields.take("reference", object, next(iter(cells))))
    fields.known(reference, cells, "reference", "cell")
    study = Study(
        file=path,
        title=fields.take("title", str, path.stem),
        run=run,
        page=page,
        preset=preset,
        categories=choices.categories or _categories(fields),
        seeds=(choices.seeds or _seeds(fields))[: None if "seed" in declared else 1],
        parameters=fields.take("parameters", dict, {}),
        cells=cells,
        reference=reference,
        published=_published(fields, cells),
        choices=choices,
        has_numbers=has_numbers,
    )
    _no_repeats(path, "categories", study.categories)
    _no_repeats(path, "seeds", study.seeds)
    return replace(study, categories=() if study.categories == ("all",) else study.categories)


def _notebook(fields: Fields, name: str) -> Path:
    """The notebook of the project by name, or one beside the study file by its path."""
    if not name.endswith(".ipynb"):
        fields.known(name, notebook_names(), "notebook")
    return find_notebook(name, fields.path.parent)


def _cells(fields: Fields) -> dict[str, dict[str, Any]]:
    """The cells by name, from `cells` or from every combination of `grid`."""
    path, grid, cells = fields.path, *(fields.take(n, dict, {}) for n in ("grid", "cells"))
    if bool(grid) == bool(cells):
        said = "both `grid` and `cells`" if grid else "neither `grid` nor `cells` with anything in"
        raise InputError(f"{path} has {said}; write one of them, with at least one run")
    if cells:
        for name, given in cells.items():
            if not isinstance(given, dict):
                raise InputError(
                    f"{path}: cell {str(name)!r} is {given!r}, wanted parameters such as "
                    "{only: IFC}, or {} for none"
                )
        return {str(name): given for name, given in cells.items()}
    for name, choice in grid.items():
        if not isinstance(choice, list) or not choice:
            raise InputError(f"{path}: grid {name} is {choice!r}, wanted a list of its values")
        _no_repeats(path, f"grid {name}", choice)
    combined = [
        dict(zip(grid, choice, strict=True)) for choice in itertools.product(*grid.values())
    ]
    return {cell_name(given): given for given in combined}


def cell_name(given: dict[str, Any]) -> str:
    """What a grid's cell is called: `only IFC, shots 5`."""
    said = []
    for name, value in given.items():
        pairs = value.items() if isinstance(value, dict) else [(name, value)]
        said += [f"{inner} {shown(entry)}" for inner, entry in pairs] or [f"no {name}"]
    return ", ".join(said)


def _check_parameters(
    fields: Fields, where: str, given: dict[str, Any], declared: dict[str, str]
) -> None:
    """Raises InputError for a parameter the run notebook lacks, or of another type."""
    for name, value in given.items():
        if name in SET_BY_SWEEP:
            raise InputError(
                f"{fields.path}: {where} gives {name}, which the sweep sets; {SET_BY_SWEEP[name]}"
            )
        fields.known(str(name), declared, where, "parameter")
        if name == "preset" and where == SHARED:
            raise InputError(f"{fields.path}: {where} gives preset; write it as `preset:` above")
        wanted = declared[name]
        if wanted and not _is_a(value, wanted):
            raise InputError(f"{fields.path}: {where}: {name} is {value!r}, wanted {wanted}")
        if name == "preset":
            known_preset(value, fields.path.parent, f"{fields.path}: {where}")


def known_preset(value: str, folder: Path, where: str) -> str:
    """A preset's name, or the whole path of a YAML file given from `folder`."""
    if value in PRESETS:
        return value
    if Path(value).suffix not in (".yaml", ".yml"):
        near = nearest(value, PRESETS)
        raise InputError(f"{where}: there is no preset {value!r}; the nearest is {near}")
    path = (folder / value).resolve()
    if not path.exists():
        raise InputError(f"{where}: {path} was not found; give its path from {folder.resolve()}")
    return str(path)


def _is_a(value: Any, wanted: str) -> bool:
    """Whether a value from YAML is of the type a notebook declares; types that are unknown pass."""
    kind = wanted.partition("[")[0].strip()
    if kind == "float":
        return type(value) in (int, float)
    types: dict[str, type] = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}
    return kind not in types or type(value) is types[kind]


def _categories(fields: Fields) -> tuple[str, ...]:
    named = fields.take("categories", object, "all")
    if isinstance(named, str):
        return (named,)
    if not isinstance(named, list) or not named:
        raise InputError(f"{fields.path}: categories is {named!r}, wanted `all` or a list of names")
    return tuple(str(name) for name in named)


def _seeds(fields: Fields) -> tuple[int, ...]:
    seeds = fields.take("seeds", list, [0])
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{fields.path}: seeds is {seeds!r}, wanted a list such as [0, 1, 2]")
    return tuple(seeds)


def _no_repeats(path: Path, name: str, values: Iterable[Any]) -> None:
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise InputError(f"{path}: {name} lists {value!r} twice; take one out")
        seen.append(value)


def _published(fields: Fields, cells: dict[str, Any]) -> dict[str, Any] | None:
    """`published`, after a look into the papers' numbers for its table and its rows."""
    about = fields.take("published", dict, {})
    if not about:
        return None
    inner = Fields(fields.path, about, ("table", "rows"), "published.")
    lines = published_file(TABLES)
    table, rows = inner.take("table", str, ""), inner.take("rows", dict, {})
    inner.known(table, [line["table"] for line in lines], "published.table", "table")
    there = [line["setting"] for line in lines if line["table"] == table]
    for cell, setting in rows.items():
        inner.known(str(cell), cells, "published.rows", "cell")
        inner.known(str(setting), there, f"published.rows of {table}", "row")
    return {"table": table, "rows": {str(c): str(setting) for c, setting in rows.items()}}


def notebook_parameters(notebook: Path) -> dict[str, str]:
    """Names of the parameters a notebook declares, with their types; "" where none is given."""
    found = papermill.inspect_notebook(str(notebook))
    types = {name: about["inferred_type_name"] for name, about in found.items()}
    return {name: "" if kind == "None" else str(kind) for name, kind in types.items()}
