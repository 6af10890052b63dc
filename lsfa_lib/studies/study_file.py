"""The fields of a study file, read from YAML and checked; a sentence for each that is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from lsfa_lib.config.build import read_yaml
from lsfa_lib.storage.files import InputError, nearest

Fields = dict[str, Any]
"""Names of config fields and of parameters of the run notebook, with their values."""
Seed = Annotated[int, pydantic.Strict(), pydantic.Field(ge=0)]


@dataclass(frozen=True)
class Published:
    """Rows of a table in data/published/lsfa_ablations.csv to compare cells with."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    table: str = ""
    rows: dict[str, str] = field(default_factory=dict)
    """By cell."""


@dataclass(frozen=True)
class StudyFile:
    """What a study file holds."""

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    title: str = ""
    like: str = ""
    """Another study file in the same folder: what is not given here is as it is there."""
    run: str = "00_quickstart"
    """The notebook of each run: one of the project by name, or a path from the file."""
    page: str = ""
    """The notebook of the study's page."""
    preset: str = "demo"
    categories: Literal["all"] | list[str] = "all"
    seeds: Annotated[list[Seed], pydantic.Field(min_length=1)] = field(default_factory=lambda: [0])
    parameters: Fields = field(default_factory=dict)
    """Of every run."""
    cells: dict[str, Fields] = field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], pydantic.Field(min_length=1)]] = field(
        default_factory=dict
    )
    """Every combination is a cell; with `cells`, each cell is run at all of them and averaged."""
    reference: str = ""
    """The cell the others are compared with; the first where it is not given."""
    control: str = ""
    """An untrained cell: a gain that does not exceed its own is not confirmed."""
    published: Published = field(default_factory=Published)
    include: list[str] = field(default_factory=list)
    """Other study files, from this one."""


_NAMES = [each.name for each in dataclasses.fields(StudyFile)]
_EXPECTED = {
    "categories": "`all` or a list of names",
    "seeds": "a list such as [0, 1, 2]",
    "include": "a list of study files",
    **dict.fromkeys(("parameters", "cells", "grid", "published"), "indented fields"),
    "published.rows": "indented fields",
}
_EXPECTED_INSIDE = {
    "cells": ("cell {!r}", "parameters such as {only: IFC}, or {} for none"),
    "grid": ("grid {}", "a list of its values"),
}


def read_file(path: Path, above: tuple[Path, ...] = ()) -> StudyFile:
    """The fields in a study file, with those of the file it is like.

    `above` are the files that are like this one. Raises InputError, naming the file and what to
    change.
    """
    if not path.exists():
        stems = sorted(file.stem for file in path.parent.glob("*.yaml"))
        hint = f"; the nearest there is {nearest(path.stem, stems)}.yaml" if stems else ""
        raise InputError(f"{path}: no such study file{hint}")
    values = {name: value for name, value in read_yaml(path).items() if value is not None}
    if not values:
        raise InputError(f"{path} holds no fields; a study has at least `cells:`")
    if "include" in values:
        for other in values.keys() & set(_NAMES) - {"include"}:
            raise InputError(
                f"{path}: `include` cannot be combined with `{other}`; move that to another file"
            )
        if values["include"] == []:
            raise InputError(f"{path}: `include` lists no study file; write at least one")
    if "like" in values:
        values = _inherited(path, values["like"], (*above, path)) | values
    values = _named(path, values)
    try:
        file = pydantic.TypeAdapter(StudyFile).validate_python(values)
    except pydantic.ValidationError as errors:
        raise InputError(f"{path}: {_sentence(values, errors.errors()[0])}") from None
    for name, choices in file.grid.items():
        require_distinct(path, f"grid {name}", choices)
    return file


def _named(path: Path, values: Fields) -> Fields:
    """The fields with names of cells as text, which YAML may read as numbers.

    Raises InputError for any other name that is not text, such as `off`, a truth value in YAML.
    """
    cells = values.get("cells")
    if isinstance(cells, dict):
        numbers = [name for name in cells if type(name) in (int, float)]
        cells = {str(name) if name in numbers else name: own for name, own in cells.items()}
        values = values | {"cells": cells}
    for name in (*values, *(cells if isinstance(cells, dict) else ())):
        if not isinstance(name, str):
            raise InputError(
                f"{path}: YAML reads the name {name!r} as {type(name).__name__}; write it in quotes"
            )
    return values


def _inherited(path: Path, name: Any, above: tuple[Path, ...]) -> Fields:
    """The fields of the file that `path` is like."""
    # In another folder, the notebooks and presets that it names by path would not be found.
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{path}: like is {name!r}, expected the name of a file in its folder")
    other = path.parent / name
    if other in above:
        chain = " -> ".join(file.name for file in (*above, other))
        raise InputError(f"{path} inherits from itself through `like` ({chain}); remove one `like`")
    try:
        found = read_file(other, above)
    except InputError as error:
        raise InputError(f"{path}: like: {error}") from error
    if found.include:
        raise InputError(f"{path}: like: {other} only includes others; name a file with cells")
    return dict(vars(found))


def _sentence(values: Fields, error: Any) -> str:
    """What is wrong with the field that pydantic names, and what is expected instead."""
    first, *inner = map(str, error["loc"])
    name = ".".join([first, *inner[:1]]) if first == "published" else first
    if error["type"] == "unexpected_keyword_argument":
        prefix = "published." if inner else ""
        known = [each.name for each in dataclasses.fields(Published)] if inner else _NAMES
        return (
            f"there is no field {name}; the nearest is {prefix}{nearest(error['loc'][-1], known)}"
        )
    value, expected = values[first], _EXPECTED.get(name, "text")
    if first == "published":
        value = error["input"]
    elif first in _EXPECTED_INSIDE and inner:
        value = value[error["loc"][1]]
        name, expected = _EXPECTED_INSIDE[first]
        name = name.format(inner[0])
    return f"{name} is {value!r}, expected {expected}"


def require_distinct(path: Path, name: str, values: Iterable[Any]) -> None:
    """Raises InputError where `values`, said to be those of `name`, repeat one."""
    seen: list[Any] = []
    for value in values:
        if value in seen:
            raise InputError(f"{path}: {name} lists {value!r} twice; remove one")
        seen.append(value)
