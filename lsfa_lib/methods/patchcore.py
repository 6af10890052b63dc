"""PatchCore: a bank of colour, of FPFH, of both concatenated (BTF), or of each, added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.config import PAPER_SCORES, Config, replaced, with_losses
from lsfa_lib.detection.building import bank_of
from lsfa_lib.detection.maps import prediction_of
from lsfa_lib.detection.memory import RowsOf, rows_of_modality, search_bank
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import MODALITIES, Mode, PatchFeatures, Prediction


def distances_of(
    good: Good, views: Sequence[RowsOf]
) -> Callable[[PatchFeatures], tuple[Float[Tensor, "P V"], list[float]]]:
    """Patch distances and image scores of a scan by each view's bank, fitted to the good scans."""
    train, config = [scan.features for scan in good.train], good.config.bank
    banks = [bank_of(train, view, config.keep_ratio, config, good.seed) for view in views]

    def distances(features: PatchFeatures) -> tuple[Float[Tensor, "P V"], list[float]]:
        pairs = zip(banks, views, strict=True)
        found = [search_bank(bank, view, features, reweighted=True) for bank, view in pairs]
        return torch.stack([f.distances for f in found], dim=1), [f.largest for f in found]

    return distances


def fit_banks(good: Good, views: Sequence[RowsOf], mode: Mode) -> Predict:
    """PatchCore with a bank for each view of the features; maps and scores are added."""
    distances, config = distances_of(good, views), good.config

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        patches, scores = distances(scan.features)
        return {mode: prediction_of(patches.sum(1), sum(scores), scan.features, config)}

    return predict


def joined_rows(features: PatchFeatures) -> tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]:
    """The concatenated features of both modalities for each valid patch, unscaled."""
    valid = features.valid
    parts = [features.by_modality[m] for m in MODALITIES]
    rows = [spread(part.weights, part.tokens)[valid] for part in parts]
    return torch.cat(rows, dim=1), row_per_patch(valid)


def row_per_patch(valid: Tensor) -> Int[Tensor, " P"]:
    """The row index of each patch if every valid patch has its own row; -1 elsewhere."""
    index = torch.full_like(valid, -1, dtype=torch.long)
    index[valid] = torch.arange(int(valid.sum()), device=valid.device)
    return index


def as_published(config: Config) -> Config:
    """The config with PatchCore's image score and plain smoothing; no training, no calibration."""
    return replaced(with_losses(config, "none"), PAPER_SCORES)


def with_fpfh(config: Config) -> Config:
    """The config with FPFH as point features, with its own radii."""
    fpfh = {"point_encoder.model": "fpfh", "point_encoder.weights": ""}
    return as_published(replaced(config, fpfh))


fit_rgb = partial(fit_banks, views=[rows_of_modality("rgb")], mode="rgb")
fit_3d = partial(fit_banks, views=[rows_of_modality("3d")], mode="3d")
fit_joined = partial(fit_banks, views=[joined_rows], mode="rgb+3d")
fit_sum = partial(fit_banks, views=[rows_of_modality(m) for m in MODALITIES], mode="rgb+3d")
"""M3DM with two banks only, scores and maps added ("without fusion" in its paper)."""
