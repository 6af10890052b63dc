"""PatchCore with one bank: of colour, of FPFH, or of both concatenated (BTF)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.config import PAPER_SCORES, Config, replaced, with_losses
from lsfa_lib.detection.maps import prediction_of
from lsfa_lib.detection.memory import RowsOf, bank_of, rows_of_modality, search_bank
from lsfa_lib.features.geometry import spread
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import MODALITIES, Mode, PatchFeatures, Prediction


def one_bank(good: Good, rows_of: RowsOf, mode: Mode) -> Predict:
    """PatchCore on these feature rows."""
    config = good.config
    train = [scan.features for scan in good.train]
    bank = bank_of(train, rows_of, config.bank.keep_ratio, config.bank, good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        found = search_bank(bank, rows_of, scan.features, reweighted=True)
        return {mode: prediction_of(found.distances, found.largest, scan.features, config)}

    return predict


def fit_rgb(good: Good) -> Predict:
    """PatchCore on image features."""
    return one_bank(good, rows_of_modality("rgb"), "rgb")


def fit_3d(good: Good) -> Predict:
    """PatchCore on point features."""
    return one_bank(good, rows_of_modality("3d"), "3d")


def fit_joined(good: Good) -> Predict:
    """PatchCore on the concatenated features of both modalities."""
    return one_bank(good, joined_rows, "rgb+3d")


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
