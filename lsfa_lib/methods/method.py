"""What a method is: something that learns from good scans and gives a function that scores one."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lsfa_lib.config import Config
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.records import MODALITIES, Modality, Mode, Prediction
from lsfa_lib.storage.files import InputError

PACKAGE = "lsfa_lib.methods"
__all__ = ["Fit", "Good", "LazyScan", "Method", "Predict", "all_methods", "find_method"]

Predict = Callable[[LazyScan], dict[Mode, Prediction]]
"""One scan -> its map and score, in each mode the method answers in."""


@dataclass(frozen=True)
class Good:
    """The good scans of one category."""

    train: Sequence[LazyScan]
    validation: Sequence[LazyScan]
    config: Config
    seed: int


Fit = Callable[[Good], Predict]


def unchanged(config: Config) -> Config:
    """The config as it is."""
    return config


@dataclass(frozen=True)
class Method:
    """A way to find defects."""

    title: str
    """As tables call it."""
    fit: Fit
    source: str
    """Paper, and whose code it is."""
    config: Callable[[Config], Config] = unchanged
    """What it changes in a user's config: its own backbones, scores, losses."""
    modalities: tuple[Modality, ...] = MODALITIES
    """Whose features it uses; () where it reads samples alone."""
    deployed: Callable[[Config], Config] = unchanged
    """The backbones it needs where nothing else is studied; speed is measured with these."""
    published: str = ""
    """What the published tables call it; "" where they do not have it."""
    needs: str = ""
    """A package that is not installed with this one, such as `anomalib`."""

    @property
    def missing(self) -> str:
        """The way to the package it needs, "" where it is there."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"{self.needs} is not installed; pip install 'lsfa_lib[{self.needs}]'"


def find_method(name: str) -> Method:
    """The method of that name, or that of a .py file. InputError with the nearest name."""
    if name.endswith(".py"):
        return _of_file(Path(name))
    known = all_methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(
            f"there is no method {name!r}; the nearest is {near} (`lsfa methods` lists them)"
        )
    return known[name]


def all_methods() -> dict[str, Method]:
    """Every method of this package, by name: the METHODS of each file beside this one."""
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(sys.modules[PACKAGE].__path__):
        found |= getattr(importlib.import_module(f"{PACKAGE}.{module.name}"), "METHODS", {})
    return found


def _of_file(path: Path) -> Method:
    """The one entry of METHODS in a file of the user's, which is executed."""
    if not path.is_file():
        raise InputError(f"{path} was not found; give the path of a .py file with METHODS")
    spec = importlib.util.spec_from_file_location(f"lsfa_method_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, "METHODS", {})
    if len(found) != 1:
        raise InputError(
            f"{path} has {len(found)} entries in METHODS, wanted one; see docs/adding_a_method.md"
        )
    method: Method = next(iter(found.values()))
    return method
