"""Whether a scan as a whole looks like the training scans: distances between mean features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lsfa_lib.records import Modality, PatchFeatures

LIMIT = 2.0
"""A scan is unlike the training scans beyond this many times their largest own distance."""
Means = Mapping[Modality, Float[Tensor, "N D"]]
"""Mean feature of each of N training scans, by modality."""


def mean_feature(features: PatchFeatures, m: Modality) -> Float[Tensor, " D"]:
    """Mean of one modality's features over the valid patches of a scan, not adapted.

    With M the weights of patches on tokens: mean of M t over valid rows = (1 / n) (v^T M) t.
    """
    own, valid = features.by_modality[m], features.valid.float()
    share = own.weights.t() @ valid[:, None]
    return (share[:, 0] @ own.tokens / valid.sum()).cpu()


def mean_features(scans: Sequence[PatchFeatures]) -> dict[Modality, Float[Tensor, "N D"]]:
    """The mean features of several scans, by modality."""
    return {m: torch.stack([mean_feature(f, m) for f in scans]) for m in scans[0].by_modality}


def unlikeness(features: PatchFeatures, means: Means) -> float:
    """How far a scan is from the training scans; 1: as far as the farthest training scan itself.

    u = max_m [ min_i |f_m - t_mi| / max_i min_(j != i) |t_mi - t_mj| ], f the scan's mean feature,
    t those of the training scans, m a modality. 0 with fewer than two training scans.
    """
    ratios = [0.0]
    for m, training in means.items():
        if len(training) < 2:
            continue
        apart = torch.cdist(training, training, compute_mode="donot_use_mm_for_euclid_dist")
        own = apart.fill_diagonal_(torch.inf).min(dim=1).values.max()
        found = torch.linalg.vector_norm(training - mean_feature(features, m), dim=1).min()
        ratios.append(float(found / own.clamp_min(1e-12)))
    return max(ratios)
