"""M3DM: banks of both modalities and of fused features, weighted by a linear one-class SVM.

Implemented from the paper (arXiv 2303.00601).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import sampled, scan_rows
from lsfa_lib.adaptation.losses import local_alignment
from lsfa_lib.adaptation.schedule import batch_scans, generator_of, learning_rate
from lsfa_lib.config import AdaptorConfig, Config, TrainingConfig
from lsfa_lib.datasets.categories import categories
from lsfa_lib.datasets.layouts import split_of
from lsfa_lib.detection.maps import prediction_of
from lsfa_lib.detection.memory import RowsOf, rows_of_modality
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.lazy_scan import LazyScan, few_shot, lazy_scan
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.patchcore import distances_of, row_per_patch
from lsfa_lib.methods.svm_fusion import svm_weights
from lsfa_lib.records import MODALITIES, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import progress

TEMPERATURE = 0.2


class Fusion(nn.Module):
    """Unsupervised feature fusion (M3DM, sec. 3.3): one MLP per modality, patch-wise contrast.

    The fused feature of a patch is the concatenation of both outputs.
    """

    def __init__(self, dims: dict[str, int], width: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d)
                )
                for m, d in dims.items()
            }
        )
        self.heads = nn.ModuleDict({m: nn.Linear(d, width) for m, d in dims.items()})


def train_fusion(
    features_of: Callable[[int], PatchFeatures], scans: int, config: Config, seed: int
) -> Fusion:
    """The fusion, trained so that the two views of a patch identify each other within their scan.

    `features_of` gives the features of each of the scans by number. Uses the steps and the learning
    rate of `training`, as LSFA's adaptors do, and batches of 8 scans.
    """
    own: TrainingConfig = replace(
        config.training, steps=config.training.steps or 50, batch=min(8, scans)
    )
    first = features_of(0)
    dims = {m: first.by_modality[m].tokens.shape[1] for m in MODALITIES}
    with seeded(seed):
        fusion = Fusion({str(m): d for m, d in dims.items()}, config.adaptor.projection)
    fusion.to(first.valid.device)
    optimiser = torch.optim.AdamW(fusion.parameters(), lr=own.learning_rate, betas=own.betas)
    for step in progress(range(own.steps), "fusion"):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, own)
        terms = []
        for i in batch_scans(step, scans, own.batch, seed):
            rows = scan_rows(features_of(i), AdaptorConfig(attend="valid"))
            patches = len(rows["3d"].index)
            chosen = torch.randperm(patches, generator=generator_of(seed, step, i))
            chosen = chosen[: own.patches_per_scan or patches].to(first.valid.device)
            views = {m: sampled(rows[m], chosen) for m in MODALITIES}
            a, b = (fusion.heads[m](fusion.mlps[m](views[m].rows)) for m in MODALITIES)
            sides = (a, views["3d"].index), (b, views["rgb"].index)
            terms.append(local_alignment(*sides, TEMPERATURE))
        optimiser.zero_grad()
        torch.stack(terms).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return fusion.requires_grad_(False)


def fused_rows(fusion: Fusion) -> RowsOf:
    """The fused features of the valid patches."""

    def rows_of(features: PatchFeatures) -> tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]:
        rows = scan_rows(features, AdaptorConfig(attend="valid"))
        parts = [fusion.mlps[m](rows[m].rows)[rows[m].index] for m in MODALITIES]
        return torch.cat(parts, dim=1), row_per_patch(features.valid)

    return rows_of


def fit(good: Good) -> Predict:
    """M3DM with a fusion of its own for the category."""
    train = [scan.features for scan in good.train]
    return fit_banks(good, train_fusion(train.__getitem__, len(train), good.config, good.seed))


def fit_shared(good: Good) -> Predict:
    """M3DM with one fusion, trained on the good scans of all categories of the data, as published.

    It takes as many steps as the fusion of one category, so that each scan is drawn less often.
    """
    config, encoders = good.config, good.encoders
    assert encoders is not None
    splits = [split_of(config.data, c, "train") for c in categories(Path(config.data.root))]
    drawn = [few_shot(split, config.shots, good.seed) for split in splits]
    entries = [entry for split in drawn for entry in split.entries]

    def features_of(number: int) -> PatchFeatures:
        # Not kept: all categories together may exceed the memory.
        return lazy_scan(entries[number], encoders, config).features

    return fit_banks(good, train_fusion(features_of, len(entries), config, good.seed))


def fit_banks(good: Good, fusion: Fusion) -> Predict:
    """Three banks, one SVM on their scores of the training scans and one on patches."""
    train = [scan.features for scan in good.train]
    views = [rows_of_modality("3d"), rows_of_modality("rgb"), fused_rows(fusion)]
    distances = distances_of(good, views)
    seen = [distances(features) for features in train]
    of_scans = svm_weights(np.array([scores for _, scores in seen]), good.seed)
    patches = [p[f.valid].cpu().numpy() for (p, _), f in zip(seen, train, strict=True)]
    of_patches = svm_weights(np.concatenate(patches), good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        patches, scores = distances(scan.features)
        weights = torch.as_tensor(of_patches, dtype=patches.dtype)
        score = float(of_scans @ np.array(scores))
        anomaly = patches @ weights.to(patches.device)
        return {"rgb+3d": prediction_of(anomaly, score, scan.features, good.config)}

    return predict
