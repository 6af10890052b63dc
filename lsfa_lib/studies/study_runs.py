"""A study as the runs that answer it: every cell in every category with every seed, checked."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lsfa_lib.config import Config, DataConfig, config_hash, configure, resolve_device
from lsfa_lib.datasets.categories import categories
from lsfa_lib.datasets.entry import SPLITS
from lsfa_lib.figures.findings import settings, shown
from lsfa_lib.methods import find_method
from lsfa_lib.notebooks.find import FOLDERS, code_of
from lsfa_lib.storage.files import InputError, nearest
from lsfa_lib.storage.results import as_json
from lsfa_lib.studies.study import Study
from lsfa_lib.studies.study_file import Fields

QUICKSTART = "00_quickstart"


@dataclass(frozen=True)
class Setting:
    """A cell at one point of the grid."""

    cell: str
    point: Fields
    config: Config
    parameters: Fields
    """Of the run notebook: all but category, seed and `out`."""
    key: str
    """Hash of all that a run's numbers follow from, but for its data and its seed."""
    missing: str
    """What to install before it can be run; "" where its method needs nothing more."""


@dataclass(frozen=True)
class Job:
    """A notebook to execute in a folder: a run, or the page of a study."""

    notebook: Path
    folder: Path
    parameters: Fields
    key: str = ""
    """Equal for runs with the same numbers: of whichever study or cell, they are done once.

    "" for what is executed each time, such as the page of a study."""
    title: str = ""
    wait_for_lock: bool = False
    """Waits for another sweep that executes this run."""
    again: bool = False
    """Executes it even if it is finished."""
    has_numbers: bool = True
    """A run whose notebook writes result.json."""
    place: str = field(default_factory=lambda: str(Path.cwd()))
    """Working folder that relative paths start from."""


@dataclass(frozen=True, kw_only=True)
class Run(Job):
    """The job of one cell in one category with one seed."""

    cell: str
    point: Fields
    """The grid's values."""
    category: str
    seed: int


def settings_of(study: Study) -> list[Setting]:
    """The study's cells, each at every point of the grid.

    Raises InputError for whatever is wrong with the names and values in them.
    """
    found = [_setting(study, cell, point) for cell in study.cells for point in study.points]
    twins: dict[str, str] = {}
    for setting in found:
        if (twin := twins.setdefault(setting.key, setting.cell)) != setting.cell:
            raise InputError(
                f"{study.where()}cells {twin!r} and {setting.cell!r} are the same run; change or "
                "remove one"
            )
    categories_of(study, found)
    return found


def _setting(study: Study, cell: str, point: Fields) -> Setting:
    given, declared = study.given(cell, point), study.declared
    own = {name: value for name, value in given.items() if name in declared}
    fields = {name: value for name, value in given.items() if name not in {*own, "preset"}}
    try:
        config = configure(given["preset"], fields)
        missing = find_method(config.method).missing
    except InputError as error:
        raise InputError(f"{study.where(f'cell {cell!r}')}{error}") from error
    # Workers may stand in another folder.
    fields["data.root"] = str(Path(config.data.root).resolve())
    parameters = own | ({"fields": fields} if "fields" in declared else {})
    same = replace(config, device="", cache="", data=replace(config.data, root=""))
    key = config_hash(same, study.notebook.stem, list(_beyond_config(study, config, own)))
    return Setting(cell, point, config, parameters, key, missing)


def _beyond_config(study: Study, config: Config, parameters: Fields) -> Iterator[object]:
    """What the numbers of a run follow from besides the config."""
    if config.method.endswith(".py"):
        yield Path(config.method).read_text(encoding="utf-8")
    if study.notebook.stem != QUICKSTART:
        yield parameters
    if study.notebook.parent not in FOLDERS:
        yield [source for source, _ in code_of(study.notebook)]


def categories_of(study: Study, found: list[Setting]) -> list[str]:
    """The categories to run in; InputError names the nearest to one that the data lack."""
    named: dict[str, None] = {}
    for root in dict.fromkeys(setting.config.data.root for setting in found):
        there = categories(Path(root))
        for category in there if study.categories == "all" else study.categories:
            if category not in there:
                raise InputError(
                    f"{study.where()}{Path(root) / category}: no such category; {root} holds "
                    f"{', '.join(there)}; the nearest is {nearest(category, there)}"
                )
            named[category] = None
    return list(named)


def runs_of(study: Study, reports: Path = Path("reports")) -> list[Run]:
    """The runs of a study, in folders below `reports`.

    Seeds are outermost, then cells: neighbours then seldom extract the same features side by side.
    Raises InputError for whatever would make one of them fail before its first step.
    """
    found = [setting for setting in settings_of(study) if not setting.missing]
    for setting in found:
        resolve_device(setting.config.device)
    return [
        _run(study, setting, category, seed, reports)
        for seed in study.seeds[: None if "seed" in study.declared else 1]
        for setting in found
        for category in categories_of(study, found)
    ]


def _run(study: Study, setting: Setting, category: str, seed: int, reports: Path) -> Run:
    _require_scans(study, setting, category, seed)
    parameters, untimed = setting.parameters, []
    if (fields := parameters.get("fields", {})).get("timed_scans") and seed != study.seeds[0]:
        # Inference time and memory do not depend on the seed.
        parameters = parameters | {"fields": fields | {"timed_scans": 0}}
        untimed = ["not timed"]
    root = Path(setting.config.data.root)
    whole = find_method(setting.config.method).all_categories
    read = categories(root) if whole else [category]
    data = (fingerprint(root / name) for name in read)
    key = config_hash(setting.key, category, seed, *data, *untimed)
    words = "-".join(map(_slug, _words(study, setting)))[:80]
    parts = [_slug(category), _slug(setting.config.preset), words, f"s{seed}", key[:8]]
    name = "-".join(part for part in parts if part)
    folder, title = reports / "runs" / "sweep" / name, ""
    if not study.has_numbers:
        # Next to the studies, where the gallery looks for pages that are no runs.
        folder = reports / f"{study.notebook.stem}-{name}"
        title = f"{study.title} ({category})"
    elif study.path is None:
        folder = reports / "runs" / "quickstart" / f"{category}-{setting.cell}-s{seed}"
        key = ""
    standard = {"category": category, "seed": seed, "out": str(folder)}
    own = {name: value for name, value in standard.items() if name in study.declared}
    return Run(
        study.notebook.resolve(),
        folder,
        own | parameters,
        key,
        title,
        has_numbers=study.has_numbers,
        cell=setting.cell,
        point=setting.point,
        category=category,
        seed=seed,
    )


def _require_scans(study: Study, setting: Setting, category: str, seed: int) -> None:
    """Raises InputError where the category has too few scans for the cell, or broken ones."""
    from lsfa_lib.adaptation.training import require_scans  # here: they import torch
    from lsfa_lib.features.lazy_scan import few_shot

    config = setting.config
    try:
        drawn = few_shot(_splits(config.data, category)["train"], config.shots, seed)
        require_scans(len(drawn), config.training.weights)
    except InputError as error:
        raise InputError(f"{study.where(f'cell {setting.cell!r}')}{error}") from error


@functools.lru_cache(maxsize=256)
def _splits(data: DataConfig, category: str) -> dict[str, Any]:
    """The splits of a category; reading them finds scans that lack a file."""
    from lsfa_lib.datasets.layouts import split_of

    return {name: split_of(data, category, name) for name in SPLITS}


def _words(study: Study, setting: Setting) -> list[str]:
    """What a run's folder is called between preset and seed; the same for the same run."""
    if study.notebook.stem == QUICKSTART:
        about = {"preset": setting.config.preset, "config": as_json(setting.config)}
        return settings(about)[1:]
    return [f"{name} {shown(v)}" for name, v in (study.cells[setting.cell] | setting.point).items()]


def _slug(text: str) -> str:
    """`text` as part of a file name, at most 40 characters."""
    return re.sub(r"[^\w.+]+", "_", text).strip("_")[:40]


def forget_data() -> None:
    """Empties the caches of data folders, which may have changed since the last sweep."""
    fingerprint.cache_clear()
    _splits.cache_clear()


@functools.lru_cache(maxsize=256)
def fingerprint(folder: Path) -> str:
    """Changes when a file below `folder` is added, removed, written or resized; reads none."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        about = path.stat()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
