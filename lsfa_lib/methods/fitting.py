"""Fits any method to the good scans of one category and sets its thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from lsfa_lib.adaptation.adaptors import scan_rows
from lsfa_lib.config import Config, resolve_device
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection.detector import require_validation
from lsfa_lib.detection.thresholds import thresholds_of
from lsfa_lib.features.extract import ENCODERS, Encoders, load_encoders
from lsfa_lib.features.lazy_scan import LazyScan, few_shot, fixed_threads, lazy_scan, loaded
from lsfa_lib.methods.lsfa import Learned
from lsfa_lib.methods.method import Good, Method, Predict
from lsfa_lib.methods.table import METHODS
from lsfa_lib.records import MODALITIES, Modality, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.results import Stopwatch, free_memory


@dataclass(frozen=True)
class Fitted:
    """A method fitted to the good scans of a category."""

    predict: Predict
    thresholds: dict[Mode, float]
    """Parts that score above are classified as defective; from validation/good only."""
    validation_scores: dict[Mode, list[float]]
    train: tuple[str, ...]
    """Names of the training scans; the drawn ones if `shots` is set."""
    encoders: Encoders | None
    """Encoders for the features of new scans; None for a method that uses no features."""
    config: Config
    """Config for the features of new scans."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that `predict` returns."""
        return tuple(self.thresholds)

    @property
    def report(self) -> dict[str, Any]:
        """Entries of result.json that only this method has, such as training curves."""
        return getattr(self.predict, "report", {"training": None, "finetuned": None, "banks": {}})


def fit_detector(category: str, config: Config, seed: int) -> Learned:
    """LSFA fitted to a category, as `run_category` fits it."""
    with fixed_threads(config.threads):
        fitted = fit_method(METHODS["lsfa"], category, config, seed, Stopwatch())
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

    `config` is the user's, as changed by `method.config`. Raises InputError if a package that the
    method needs is missing, and for fewer than two validation scans.
    """
    if method.missing:
        raise InputError(f"{method.title}: {method.missing}")
    split = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    held = split_of(config.data, category, "validation")
    require_validation(len(held))
    encoders = None
    if modalities := used_modalities(method, config, split):
        with clock("load encoders"):
            encoders = load_encoders(config, resolve_device(config.device), modalities)
    train, validation = (
        [lazy_scan(entry, encoders, config) for entry in part.entries] for part in (split, held)
    )
    features = bool(modalities) and config.finetune.method == "none"
    with clock("features of train and validation"):
        scans = [*train, *validation]
        for i, scan in enumerate(loaded(scans, samples=not features, features=features)):
            if i == 0 and features and resolve_device(config.device).type == "cpu":
                require_memory(scan.features, len(scans), config, free_memory())
    good = Good(train, validation, config, seed, encoders, folder, clock)
    with clock("fit"):
        predict: Predict = method.call("fit", good)
    with clock("threshold"):
        scores = _validation_scores(predict, validation)
    for scan in scans:
        scan.kept.clear()  # `predict` may hold `good`; a fitted method does not need its scans
    own = getattr(predict, "encoders", encoders)
    return Fitted(
        predict=predict,
        thresholds=thresholds_of(scores, config.detector),
        validation_scores=scores,
        train=tuple(entry.name for entry in split.entries),
        encoders=own,
        # Features of backbones trained for one run are not reusable.
        config=config if own is encoders else replace(config, cache=""),
    )


def require_memory(features: PatchFeatures, scans: int, config: Config, free: int) -> None:
    """Raises InputError if the features of as many scans like this one exceed `free` bytes.

    Training also holds the feature rows of all patches; to standardise them, those of one modality
    twice.
    """
    parts = features.by_modality.values()
    one = sum(p.tokens.nbytes + 12 * p.weights.values().numel() for p in parts)
    if any(astuple(config.training.weights)):
        rows = [own.rows.nbytes for own in scan_rows(features, config.adaptor).values()]
        one += max(sum(rows), 2 * max(rows))
    needed = one * scans
    if needed > free:
        raise InputError(
            f"the features of {scans} scans need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} "
            "GB are free; lower image_encoder.size or point_encoder.groups, or set shots"
        )


def used_modalities(method: Method, config: Config, split: Split) -> list[Modality]:
    """The modalities whose features the method uses on these scans.

    Raises InputError if one that it needs was not captured or is not among `config.modalities`, and
    if both would be aligned but only one is there.
    """
    captured, weights = split.entries[0].modalities, config.training.weights
    _require_colour(method, config, split)
    usable = [m for m in captured if m in config.modalities]
    alone = "image" if "rgb" in usable else "points"
    held = f"modalities is {', '.join(config.modalities)}"
    if "3d" not in captured:
        alone, held = "image", f"{split.entries[0].path.parents[3]} holds images without 3D"
    some = set(method.modalities) & set(usable)
    needed = method.requires or (() if some or not method.modalities else config.modalities)
    if lacking := [m for m in needed if m not in usable]:
        example = "patchcore_rgb" if alone == "image" else "patchcore_fpfh"
        raise InputError(
            f"{held}, but {method.title} needs {lacking[0]}; choose a method of the {alone} alone, "
            f"such as {example} or unadapted"
        )
    if set(method.modalities) - set(usable) and (weights.la or weights.ga):
        raise InputError(
            f"{held}, but LA and GA align images with points; run with --only IFC, or --only none"
        )
    if method.modalities == MODALITIES and set(usable) == set(MODALITIES):
        return list(ENCODERS)
    return [m for m in method.modalities if m in usable]


def _require_colour(method: Method, config: Config, split: Split) -> None:
    """Raises InputError if the method wants colour that was not captured."""
    wanted = {m for m in method.modalities if m in config.modalities} | set(method.requires)
    if "rgb" in wanted and "rgb" not in split.entries[0].modalities:
        raise InputError(
            f"{split.entries[0].path.parents[3]} holds no colour images, but {method.title} uses "
            "RGB; restore its folders rgb, or use 3D alone with `modalities: [3d]` "
            "(--modalities 3d)"
            + (", and a method such as unadapted" if "rgb" in method.requires else "")
        )


def _validation_scores(predict: Predict, scans: Sequence[LazyScan]) -> dict[Mode, list[float]]:
    """Image scores of the validation scans, by mode; those that `fit` has computed, if it has."""
    if (known := getattr(predict, "validation_scores", None)) is not None:
        return known
    found = [scored(predict, scan) for scan in scans]
    return {mode: [modes[mode].image_score for modes in found] for mode in found[0]}


def scored(predict: Predict, scan: LazyScan) -> dict[Mode, Prediction]:
    """The predictions for a scan. Raises InputError where a score or a map is not finite."""
    found = predict(scan)
    for mode, prediction in found.items():
        if not (math.isfinite(prediction.image_score) and prediction.anomaly_map.isfinite().all()):
            raise InputError(
                f"the method gave {scan.name} a score that is not finite ({mode}); check its "
                "training scans, or choose another method"
            )
    return found
