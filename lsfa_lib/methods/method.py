"""The interface of a method: it learns from good scans and returns a function to score a scan."""

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
"""One scan -> its map and score, in each mode of the method. It may have the attributes `report` (a
dict for result.json), `encoders` (for the features of new scans) and `save(folder)`."""


@dataclass(frozen=True)
class Good:
    """The good scans of one category."""

    train: Sequence[LazyScan]
    validation: Sequence[LazyScan]
    config: Config
    seed: int
    encoders: Encoders | None = None
    """Those that computed the features; None for a method that uses none."""
    folder: Path | None = None
    """Where checkpoints and trained weights are saved; None: nowhere."""
    clock: Stopwatch | None = None
    """Times the stages of `fit`."""

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """A context that is timed as this stage."""
        return self.clock(stage) if self.clock else nullcontext()


Fit = Callable[[Good], Predict]


def unchanged(config: Config) -> Config:
    """The same config."""
    return config


@dataclass(frozen=True)
class Method:
    """An anomaly detection method.

    `fit`, `config` and `deployed` are functions, or their location `module:function` in
    `lsfa_lib.methods`, so that the table of methods needs no imports.
    """

    title: str
    """Its name in tables."""
    fit: Fit | str
    source: str
    """Paper, and origin of the code."""
    config: Callable[[Config], Config] | str = unchanged
    """Its changes to a user's config: backbones, scores, losses."""
    modalities: tuple[str, ...] = MODALITIES
    """Modalities whose features it uses; () if it reads samples only."""
    requires: tuple[str, ...] = MODALITIES
    """Modalities that the scans must have; `("rgb",)` admits images without 3D, `()` either."""
    deployed: Callable[[Config], Config] | str = unchanged
    """The backbones it needs in deployment; speed is measured with these."""
    published: str = ""
    """Its name in the published tables; "" if it is not in them."""
    all_categories: bool = False
    """Whether it learns from the good scans of all categories of the data."""
    needs: str = ""
    """A package that is not installed by default, such as `anomalib`."""

    @property
    def missing(self) -> str:
        """How to install the package it needs; "" if it is installed."""
        if not self.needs or importlib.util.find_spec(self.needs):
            return ""
        return f"{self.needs} is not installed; pip install 'lsfa_lib[{self.needs}]'"

    def call(self, name: str, argument: Any) -> Any:
        """The result of the method's function `name` (fit, config, deployed) for `argument`."""
        function = getattr(self, name)
        if isinstance(function, str):
            function = pkgutil.resolve_name(f"lsfa_lib.methods.{function}")
        return function(argument)
