"""Any method on one category: fitted to its good scans, its thresholds set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.detector import require_validation, thresholds_of
from lsfa_lib.features.extract import Encoders, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, fixed_threads, lazy_scan, load_features
from lsfa_lib.methods.lsfa import Learned
from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.methods.table import METHODS
from lsfa_lib.records import Mode
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import Stopwatch


@dataclass(frozen=True)
class Fitted:
    """A method that has learned a category's good scans."""

    predict: Predict
    thresholds: dict[Mode, float]
    """A part is called defective above it; from validation/good alone."""
    validation_scores: dict[Mode, list[float]]
    train: tuple[str, ...]
    """Names of the training scans, those drawn where `shots` says so."""
    encoders: Encoders | None
    """Those that new scans' features must come from; None for a method that uses no features."""
    config: Config
    """Of new scans' features."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes `predict` answers in."""
        return tuple(self.thresholds)

    @property
    def report(self) -> dict[str, Any]:
        """What result.json holds of this method alone, such as training curves."""
        return getattr(self.predict, "report", {"training": None, "finetuned": None, "banks": {}})


def fit_detector(
    category: str, config: Config, seed: int, clock: Stopwatch | None = None
) -> Learned:
    """LSFA fitted to a category, as `run_category` fits it."""
    with fixed_threads(config.threads):
        fitted = fit_method(METHODS["lsfa"], category, config, seed, clock or Stopwatch())
    assert isinstance(fitted.predict, Learned)
    return fitted.predict


def fit_method(
    method: Method,
    category: str,
    config: Config,
    seed: int,
    clock: Stopwatch,
    folder: Path | None = None,
) -> Fitted:
    """The method fitted to a category; its test split is not read.

    `config` is what `method.config` made of the user's. Raises InputError where a package the
    method needs is missing, and with fewer than two validation scans.
    """
    if method.missing:
        raise InputError(f"{method.title}: {method.missing}")
    encoders = None
    if method.modalities:
        with clock("load encoders"):
            encoders = load_encoders(config, resolve_device(config.device))
    split = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    held = split_of(config.data, category, "validation")
    require_validation(len(held))
    train, validation = (
        [lazy_scan(entry, encoders, config) for entry in part.entries] for part in (split, held)
    )
    samples = config.finetune.method != "none" or not method.modalities
    with clock("features of train and validation"):
        load_features([*train, *validation], samples)
    good = Good(train, validation, config, seed, encoders, folder, clock)
    with clock("fit"):
        predict: Predict = method.call("fit", good)
    scores = getattr(predict, "validation_scores", None)
    if scores is None:
        with clock("threshold"):
            found = [predict(scan) for scan in validation]
        scores = {mode: [modes[mode].image_score for modes in found] for mode in found[0]}
    own = getattr(predict, "encoders", encoders)
    return Fitted(
        predict=predict,
        thresholds=thresholds_of(scores, config.detector),
        validation_scores=scores,
        train=tuple(entry.name for entry in split.entries),
        encoders=own,
        # Features of backbones trained for one run are of no use to others.
        config=config if own is encoders else replace(config, cache=""),
    )
