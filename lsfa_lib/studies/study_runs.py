"""A study as the runs that answer it: every cell in every category with every seed, checked."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nbformat

from lsfa_lib.adaptation.training import require_scans
from lsfa_lib.config import Config, DataConfig, chosen_config, config_hash, resolve_device
from lsfa_lib.datasets import layouts
from lsfa_lib.datasets.entry import SPLITS
from lsfa_lib.features.lazy_scan import few_shot
from lsfa_lib.figures.findings import settings, shown
from lsfa_lib.methods.method import find_method
from lsfa_lib.notebooks.run import FOLDERS
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import as_json
from lsfa_lib.studies.study import Study, known_preset, notebook_parameters
from lsfa_lib.studies.study_fields import nearest

QUICKSTART = "00_quickstart"
CONFIG = {"only": "part"}
"""Parameters of a run notebook that `chosen_config` calls otherwise."""


@dataclass(frozen=True)
class Run:
    """One notebook to execute."""

    cell: str
    category: str
    seed: int
    key: str
    """Equal for runs that give the same numbers: of whichever study or cell, they are done once."""
    folder: str
    """Name of its folder; follows from the key and what the key is made of."""
    notebook: Path
    parameters: dict[str, Any]
    """All but `out`."""


def runs_of(study: Study) -> list[Run]:
    """The runs of a study. Seeds are outermost, then cells: neighbours then seldom extract the same
    features side by side.

    Raises InputError for whatever would make one of them fail before its first step.
    """
    declared = notebook_parameters(study.run)
    configs = {cell: _config(study, cell, declared) for cell in study.cells}
    for config in configs.values():
        resolve_device(config.device)
    missing = unavailable(study)
    configs = {cell: config for cell, config in configs.items() if cell not in missing}
    categories = _categories(study, configs.values())
    method = {cell: _method(study, cell, configs[cell]) for cell in configs}
    for cell, key in method.items():
        twin = next(other for other in method if method[other] == key)
        if twin != cell:
            raise InputError(
                f"{study.file}: cells {twin!r} and {cell!r} are the same run; change one or take "
                "it out"
            )
    return [
        _run(study, cell, category, seed, configs[cell], method[cell], declared)
        for seed in study.seeds
        for cell in configs
        for category in categories
        if _usable(study, cell, category, seed, configs[cell])
    ]


def unavailable(study: Study) -> dict[str, str]:
    """Cells whose method needs a package that is not installed, and what to install."""
    declared = notebook_parameters(study.run)
    found = {}
    for cell in study.cells:
        try:
            found[cell] = find_method(_config(study, cell, declared).method).missing
        except InputError as error:
            raise InputError(f"{study.file}: cell {cell!r}: {error}") from error
    return {cell: reason for cell, reason in found.items() if reason}


def _given(study: Study, cell: str) -> dict[str, Any]:
    """Parameters of a cell's runs: the study's, then the command line's, then its own."""
    given = {**study.parameters, "preset": study.preset}
    if study.choices.image_size:
        given["image_size"] = study.choices.image_size
    given |= study.cells[cell]
    given["preset"] = known_preset(given["preset"], study.file.parent, str(study.file))
    return given


def _config(study: Study, cell: str, declared: Iterable[str]) -> Config:
    """The config of a cell's runs, as their notebook will choose it."""
    known = set(inspect.signature(chosen_config).parameters)
    given = {CONFIG.get(name, name): value for name, value in _given(study, cell).items()}
    asked = {name: value for name, value in given.items() if name in known}
    where = {"data_root": study.choices.data_root, "device": study.choices.device}
    try:
        return chosen_config(**{**asked, **where})
    except InputError as error:
        raise InputError(f"{study.file}: cell {cell!r}: {error}") from error


def _categories(study: Study, configs: Iterable[Config]) -> list[str]:
    """The categories to run in; InputError names the nearest to one that the data lack."""
    found: list[str] = []
    for root in dict.fromkeys(config.data.root for config in configs):
        there = layouts.categories(Path(root))
        for category in study.categories or there:
            if category not in there:
                raise InputError(
                    f"{study.file}: {root} has no category {category!r}; the nearest is "
                    f"{nearest(category, there)}"
                )
        found += study.categories or there
    return list(dict.fromkeys(found))


def _usable(study: Study, cell: str, category: str, seed: int, config: Config) -> bool:
    """True. InputError where the category has too few scans for the cell, or broken ones."""
    splits = _splits(config.data, category)
    try:
        drawn = few_shot(splits["train"], config.shots, seed)
        require_scans(len(drawn), config.training.weights)
    except InputError as error:
        raise InputError(f"{study.file}: cell {cell!r}: {error}") from error
    return True


@functools.lru_cache(maxsize=256)
def _splits(data: DataConfig, category: str) -> dict[str, layouts.Split]:
    return {name: layouts.split_of(data, category, name) for name in SPLITS}


def _method(study: Study, cell: str, config: Config) -> str:
    """Hash of all a run's numbers follow from, but for its data and its seed."""
    same = replace(config, device="", cache="", data=replace(config.data, root=""))
    return config_hash(same, study.run.stem, list(_beyond_config(study, cell)))


def _beyond_config(study: Study, cell: str) -> Iterator[Any]:
    """What a run notebook of the user's makes its numbers from besides the config."""
    method = _config(study, cell, notebook_parameters(study.run)).method
    if method.endswith(".py"):
        yield Path(method).read_text(encoding="utf-8")
    if study.run.stem != QUICKSTART:
        yield _given(study, cell)
    if study.run.parent not in FOLDERS:
        notebook: Any = nbformat.read(study.run, as_version=4)  # type: ignore[no-untyped-call]
        yield [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def _run(
    study: Study,
    cell: str,
    category: str,
    seed: int,
    config: Config,
    method: str,
    declared: dict[str, str],
) -> Run:
    key = config_hash(method, category, seed, fingerprint(Path(config.data.root) / category))
    root = str(Path(config.data.root).resolve())
    standard = {"category": category, "seed": seed, "data_root": root}
    standard["device"] = study.choices.device
    parameters = {name: v for name, v in standard.items() if name in declared}
    words = "-".join(map(_slug, _words(study, cell, config)))[:80]
    parts = [_slug(category), _slug(config.preset), words, f"s{seed}", key[:8]]
    return Run(
        cell=cell,
        category=category,
        seed=seed,
        key=key,
        folder="-".join(part for part in parts if part),
        notebook=study.run.resolve(),
        parameters={
            **parameters,
            **{n: v for n, v in _given(study, cell).items() if n in declared},
        },
    )


def _words(study: Study, cell: str, config: Config) -> list[str]:
    """What a run's folder is called between preset and seed; the same for the same run."""
    if study.run.stem == QUICKSTART:
        return settings({"preset": config.preset, "config": as_json(config)})[1:]
    return [f"{name} {shown(value)}" for name, value in study.cells[cell].items()]


def _slug(text: str) -> str:
    """`text` as part of a file name, at most 40 characters."""
    return re.sub(r"[^\w.+]+", "_", text).strip("_")[:40]


@functools.lru_cache(maxsize=256)
def fingerprint(folder: Path) -> str:
    """Changes when a file below `folder` is added, removed, written or resized; reads none."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        about = path.stat()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
