"""M3DM: banks of both modalities and of fused features, weighted by a linear one-class SVM.

Implemented from the paper (arXiv 2303.00601). Its decision layer is a one-class SVM with a linear
kernel, whose value at a vector of distances is their weighted sum: larger for larger distances, so
it is the anomaly score itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import SGDOneClassSVM
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import sampled, scan_rows
from lsfa_lib.adaptation.losses import local_alignment
from lsfa_lib.adaptation.schedule import batch_scans, generator_of, learning_rate
from lsfa_lib.config import AdaptorConfig, Config, TrainingConfig
from lsfa_lib.detection.maps import prediction_of
from lsfa_lib.detection.memory import RowsOf, rows_of_modality
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.patchcore import distances_of, row_per_patch
from lsfa_lib.records import MODALITIES, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import progress

TEMPERATURE = 0.2
NU = 0.5
"""Parameter of the one-class SVM."""


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


def train_fusion(train: Sequence[PatchFeatures], config: Config, seed: int) -> Fusion:
    """The fusion, trained so that the two views of a patch identify each other within their scan.

    Uses the steps, learning rate and batches of `training`, as LSFA's adaptors do.
    """
    own: TrainingConfig = replace(
        config.training, steps=config.training.steps or 50, batch=min(8, len(train))
    )
    dims = {m: train[0].by_modality[m].tokens.shape[1] for m in MODALITIES}
    with seeded(seed):
        fusion = Fusion({str(m): d for m, d in dims.items()}, config.adaptor.projection)
    fusion.to(train[0].valid.device)
    rows = [scan_rows(features, AdaptorConfig(attend="valid")) for features in train]
    optimiser = torch.optim.AdamW(fusion.parameters(), lr=own.learning_rate, betas=own.betas)
    for step in progress(range(own.steps), "fusion"):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, own)
        terms = []
        for i in batch_scans(step, len(train), own.batch, seed):
            patches = len(rows[i]["3d"].index)
            chosen = torch.randperm(patches, generator=generator_of(seed, step, i))
            chosen = chosen[: own.patches_per_scan or patches].to(train[0].valid.device)
            views = {m: sampled(rows[i][m], chosen) for m in MODALITIES}
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
    """M3DM: three banks, one SVM on their scores of the training scans and one on patches."""
    train = [scan.features for scan in good.train]
    fusion = train_fusion(train, good.config, good.seed)
    views = [rows_of_modality("3d"), rows_of_modality("rgb"), fused_rows(fusion)]
    distances = distances_of(good, views)
    seen = [distances(features) for features in train]
    of_scans = _svm(np.array([scores for _, scores in seen]), good.seed)
    patches = [p[f.valid].cpu().numpy() for (p, _), f in zip(seen, train, strict=True)]
    of_patches = _svm(np.concatenate(patches), good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        patches, scores = distances(scan.features)
        weights = torch.as_tensor(of_patches, dtype=patches.dtype)
        score = float(of_scans @ np.array(scores))
        anomaly = patches @ weights.to(patches.device)
        return {"rgb+3d": prediction_of(anomaly, score, scan.features, good.config)}

    return predict


def _svm(distances: Float[np.ndarray, "N 3"], seed: int) -> Float[np.ndarray, " 3"]:
    """Weights of a linear one-class SVM fitted to the distances of good scans or patches."""
    fitted = SGDOneClassSVM(nu=NU, random_state=seed, max_iter=1000).fit(distances)
    return np.ravel(fitted.coef_)
