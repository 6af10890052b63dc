"""PatchCore with one bank: of colour, of FPFH, or of both in one row (BTF)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.config import Config, with_losses
from lsfa_lib.detection.detector import map_valid, smooth_map
from lsfa_lib.detection.memory import Bank, build_bank, nearest_rows, reweighted_score
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.features.geometry import spread
from lsfa_lib.methods.method import Good, LazyScan, Method, Predict
from lsfa_lib.records import MODALITIES, Modality, Mode, PatchFeatures, Prediction

RowsOf = Callable[[PatchFeatures], tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]]
"""Feature rows of a scan, and which of them each of the P patches has (-1: none)."""


def bank_of(train: Sequence[PatchFeatures], rows_of: RowsOf, config: Config, seed: int) -> Bank:
    """A bank that keeps the config's share of the valid patches of good scans."""
    found = [rows_of(features)[0] for features in train]
    source = [
        torch.stack((torch.full((len(rows),), scan), torch.arange(len(rows))), dim=1).to(
            rows.device
        )
        for scan, rows in enumerate(found)
    ]
    patches = sum(int(features.valid.sum()) for features in train)
    rows = torch.cat(found)
    keep = min(len(rows), max(1, round(config.bank.keep_ratio * patches)))
    return build_bank(rows, torch.cat(source), keep, config.bank, seed)


def distances_to(
    bank: Bank, rows_of: RowsOf, features: PatchFeatures
) -> tuple[Float[Tensor, " P"], float]:
    """Distance of each patch to the bank, 0 where there is none, and PatchCore's image score."""
    rows, index = rows_of(features)
    distances, nearest = nearest_rows(rows, bank)
    patches = torch.zeros_like(index, dtype=distances.dtype)
    patches[index >= 0] = distances[index[index >= 0]]
    return patches, reweighted_score(rows, distances, nearest, bank)


def predicted(
    patches: Float[Tensor, " P"], score: float, features: PatchFeatures, config: Config
) -> Prediction:
    """Patch scores as a smoothed map, with the image score."""
    inside = map_valid(features, config)
    return Prediction(smooth_map(patches.view(features.grid), inside, config), score)


def one_bank(rows_of: RowsOf, mode: Mode) -> Callable[[Good], Predict]:
    """`fit` of PatchCore on these rows."""

    def fit(good: Good) -> Predict:
        bank = bank_of([s.features for s in good.train], rows_of, good.config, good.seed)

        def predict(scene: LazyScan) -> dict[Mode, Prediction]:
            found = distances_to(bank, rows_of, scene.features)
            return {mode: predicted(*found, scene.features, good.config)}

        return predict

    return fit


def rows_of_modality(m: Modality) -> RowsOf:
    """The different rows of one modality."""
    return lambda features: distinct_rows(features, m)


def joined_rows(features: PatchFeatures) -> tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]:
    """Both modalities' features of each valid patch in one row, as they are."""
    valid = features.valid
    parts = [features.by_modality[m] for m in MODALITIES]
    rows = [spread(part.weights, part.tokens)[valid] for part in parts]
    index = torch.full_like(valid, -1, dtype=torch.long)
    index[valid] = torch.arange(int(valid.sum()), device=valid.device)
    return torch.cat(rows, dim=1), index


def as_published(config: Config) -> Config:
    """PatchCore's image score and plain smoothing; nothing is trained, nothing calibrated."""
    detector = replace(
        config.detector,
        image_score="reweighted",
        calibrate=False,
        edge_correction=False,
        disagreement=False,
    )
    return replace(with_losses(config, "none"), detector=detector)


def with_fpfh(config: Config) -> Config:
    """Shape by FPFH, with the config's radii."""
    return as_published(
        replace(config, point_encoder=replace(config.point_encoder, model="fpfh", weights=""))
    )


PATCHCORE = "arXiv 2106.08265; written anew"
METHODS = {
    "patchcore_rgb": Method(
        "PatchCore, RGB",
        one_bank(rows_of_modality("rgb"), "rgb"),
        PATCHCORE,
        as_published,
        modalities=("rgb",),
        published="PatchCore",
    ),
    "patchcore_fpfh": Method(
        "PatchCore, FPFH",
        one_bank(rows_of_modality("3d"), "3d"),
        "arXiv 2203.05550; written anew",
        with_fpfh,
        modalities=("3d",),
        published="FPFH",
    ),
    "btf": Method(
        "BTF",
        one_bank(joined_rows, "rgb+3d"),
        "arXiv 2203.05550; written anew",
        with_fpfh,
        published="PatchCore + FPFH",
    ),
}
