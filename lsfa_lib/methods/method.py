"""What a method is: it learns from good scans and returns a function that scores one scan."""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsfa_lib.config import MODALITIES, Config

if TYPE_CHECKING:  # not at run time: `lsfa methods` lists the table without torch
    from lsfa_lib.features.extract import Encoders
    from lsfa_lib.features.lazy_scan import LazyScan
    from lsfa_lib.records import Mode, Prediction
    from lsfa_lib.storage.results import Stopwatch

    Predict = Callable[[LazyScan], dict[Mode, Prediction]]
else:
    Encoders = LazyScan = Stopwatch = Any
    Predict = Callable
"""One scan -> its map and score, in each mode the method answers in. It may carry `report` (a dict
for result.json), `encoders` (those its features must come from) and `save(folder)`."""


@dataclass(frozen=True)
class Good:
    """The good scans of one category."""

    train: Sequence[LazyScan]
    validation: Sequence[LazyScan]
    config: Config
    seed: int
    encoders: Encoders | None = None
    """Those behind the scans' features; None for a method that uses none."""
    folder: Path | None = None
    """Where checkpoints and trained weights are kept; None keeps none."""
    clock: Stopwatch | None = None
    """Times the stages of `fit`."""

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """A context whose seconds count as this stage's."""
        return self.clock(stage) if self.clock else nullcontext()


Fit = Callable[[Good], Predict]


def unchanged(config: Config) -> Config:
    """The config as it is."""
    return config


@dataclass(frozen=True)
class Method:
    """A way to find defects.

    `fit`, `config` and `deployed` are functions, or where they lie: `module:function` below
    `lsfa_lib.methods`, so that the table of methods needs no imports.
    """

    title: str
    """Its name in tables."""
    fit: Fit | str
    source: str
    """Paper, and whose code it is."""
    config: Callable[[Config], Config] | str = unchanged
    """What it changes in a user's config: its own backbones, scores, losses."""
    modalities: tuple[str, ...] = MODALITIES
    """Whose features it uses; () where it reads samples alone."""
    deployed: Callable[[Config], Config] | str = unchanged
    """The backbones it needs where nothing else is studied; speed is measured with these."""
    published: str = ""
    """Its name in the published tables; "" where they do not have it."""
    needs: str = ""
    """A package that is not installed with this one, such as `anomalib`."""

    @property
    def missing(self) -> str:
        """How to install the package it needs; "" where that is installed."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"{self.needs} is not installed; pip install 'lsfa_lib[{self.needs}]'"

    def call(self, name: str, argument: Any) -> Any:
        """What the method's function `name` (fit, config, deployed) returns for `argument`."""
        function = getattr(self, name)
        if isinstance(function, str):
            function = pkgutil.resolve_name(f"lsfa_lib.methods.{function}")
        return function(argument)
