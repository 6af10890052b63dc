"""Crossmodal Feature Mapping (CFM, arXiv 2312.04521): features predicted from the other modality.

Small networks learn the correspondence of shape and colour on good parts. Features that differ from
what the other modality predicts indicate a defect. Implemented from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.adaptation.adaptors import ScanRows, scan_rows
from lsfa_lib.adaptation.schedule import epoch_order, generator_of
from lsfa_lib.config import AdaptorConfig, Config, CrossmodalConfig
from lsfa_lib.detection.maps import blur, patch_map, top_mean
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.geometry import rows_at
from lsfa_lib.records import (
    MODALITIES,
    P_AUROC_MAP,
    Modality,
    ModalityFeatures,
    Mode,
    PatchFeatures,
    Prediction,
)
from lsfa_lib.storage.files import InputError, progress

OTHER: dict[Modality, Modality] = {"3d": "rgb", "rgb": "3d"}
VALID = AdaptorConfig(attend="valid")


@dataclass(frozen=True)
class Crossmodal:
    """The two trained mappings of one category."""

    mappings: Any
    """nn.ModuleDict, by the predicted modality: its features from those of the other one."""
    losses: tuple[float, ...]
    """Mean loss of each epoch."""


def new_mapping(features: int, hidden: int, predicted: int) -> nn.Sequential:
    """d_in -> hidden -> hidden -> d_out with GELU between; no norm, no dropout (CFM, sec. 3.2)."""
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, predicted),
    )


def new_mappings(dims: dict[Modality, int], seed: int) -> nn.ModuleDict:
    """Both mappings, untrained; `hidden` is the mean of the two feature widths."""
    hidden = (dims["3d"] + dims["rgb"]) // 2
    with seeded(seed):
        return nn.ModuleDict({m: new_mapping(dims[OTHER[m]], hidden, dims[m]) for m in MODALITIES})


def train_crossmodal(
    train: Sequence[PatchFeatures], config: CrossmodalConfig, seed: int
) -> Crossmodal:
    """The mappings trained on the valid patches of good scans, on the device of the features.

    L = mean_p (1 - cos(M_3D(f_rgb), f_3D)) + mean_p (1 - cos(M_rgb(f_3D), f_rgb))   (CFM, Eq. 1-2)

    with Adam, on batches of scans. Raises InputError where no scan has a valid patch.
    """
    scans = [features for features in train if bool(features.valid.any())]
    if not scans:
        raise InputError(f"none of the {len(train)} training scans has a valid patch to learn from")
    dims = {m: scans[0].by_modality[m].tokens.shape[1] for m in MODALITIES}
    mappings = new_mappings(dims, seed).to(scans[0].valid.device)
    optimiser = torch.optim.Adam(mappings.parameters(), lr=config.learning_rate)
    losses = []
    for epoch in progress(range(config.epochs), "crossmodal"):
        order, total = epoch_order(epoch, len(scans), seed), 0.0
        for start in range(0, len(scans), config.batch):
            batch = [
                drawn(scans[i], config.patches_per_scan, generator_of(seed, epoch, i))
                for i in order[start : start + config.batch]
            ]
            optimiser.zero_grad()
            loss = batch_loss(mappings, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(batch)
        losses.append(total / len(scans))
    return Crossmodal(mappings.requires_grad_(False), tuple(losses))


def drawn(
    features: PatchFeatures, patches: int, generator: torch.Generator
) -> dict[Modality, ScanRows]:
    """Rows of both modalities for that many valid patches, drawn at random; for all if 0."""
    places = features.valid.nonzero().squeeze(1)
    if 0 < patches < len(places):
        chosen = torch.randperm(len(places), generator=generator)[:patches]
        features = _with_patches(features, places[chosen.to(places.device)])
    return scan_rows(features, VALID)


def _with_patches(features: PatchFeatures, places: Int[Tensor, " p"]) -> PatchFeatures:
    """The scan reduced to these patches: a fine grid has 16 times as many as are drawn."""
    kept: dict[Modality, ModalityFeatures] = {}
    for m, own in features.by_modality.items():
        begins, entries = own.weights.crow_indices(), own.weights.crow_indices().diff()[places]
        starts = F.pad(entries.cumsum(0), (1, 0))
        inside = torch.arange(int(starts[-1]), device=places.device)
        inside += torch.repeat_interleave(begins[places] - starts[:-1], entries)
        weights = torch.sparse_csr_tensor(
            starts,
            own.weights.col_indices()[inside],
            own.weights.values()[inside],
            size=(len(places), own.weights.shape[1]),
            check_invariants=False,
        )
        kept[m] = ModalityFeatures(own.tokens, weights)
    return replace(features, by_modality=kept, valid=torch.ones_like(places, dtype=torch.bool))


def batch_loss(mappings: nn.ModuleDict, batch: Sequence[dict[Modality, ScanRows]]) -> Tensor:
    """The sum over both directions of the mean of 1 - cos over all patches of the batch."""
    terms = []
    for m in MODALITIES:
        cosines = torch.cat([(a * b).sum(1) for a, b in (_sides(mappings, s, m) for s in batch)])
        terms.append((1 - cosines).mean())
    return terms[0] + terms[1]


def _sides(
    mappings: nn.ModuleDict, scan: dict[Modality, ScanRows], m: Modality
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V D"]]:
    """Predicted and actual features of each valid patch, of unit length.

    Patches that share a row of the other modality share its prediction.
    """
    source = scan[OTHER[m]]
    predicted = rows_at(F.normalize(mappings[m](source.rows), dim=1), source.index)
    return predicted, rows_at(F.normalize(scan[m].rows, dim=1), scan[m].index)


@torch.inference_mode()
def residuals(crossmodal: Crossmodal, features: PatchFeatures) -> dict[Modality, Tensor]:
    """|| M(f_other)/||.|| - f/||.|| ||_2 of each of the P patches, by the predicted modality.

    From 0 to 2; 0 where a patch is not valid.
    """
    scan = scan_rows(features, VALID)
    found: dict[Modality, Tensor] = {}
    for m in MODALITIES:
        predicted, own = _sides(crossmodal.mappings, scan, m)
        found[m] = patch_map(torch.linalg.vector_norm(predicted - own, dim=1), features)
    return found


def aggregate(by_modality: dict[Modality, Tensor], how: str) -> Tensor:
    """One map from both directions: `product` (CFM), `sum`, `max`, or one direction only."""
    shape, colour = by_modality["3d"], by_modality["rgb"]
    if how == "product":
        return shape * colour
    if how == "sum":
        return shape + colour
    if how == "max":
        return torch.maximum(shape, colour)
    return shape if how == "from_rgb" else colour


def predict_crossmodal(
    crossmodal: Crossmodal, features: PatchFeatures, config: Config
) -> Prediction:
    """Map and score of one scan: the aggregated residuals at image size, smoothed."""
    anomaly = residual_map(crossmodal, features, config)
    return Prediction(anomaly, top_mean(anomaly, config.crossmodal.top_fraction))


def predict_released(
    crossmodal: Crossmodal, features: PatchFeatures, config: Config
) -> dict[Mode, Prediction]:
    """Three scales of one map, as in CFM's public evaluation.

    AUPRO uses the map divided by the mean of its non-zero pixels, I-AUROC the maximum of the map
    divided by the root of that mean, P-AUROC the map divided by the root of the mean of all pixels.
    The last is a mode of its own, which `run_category` takes the P-AUROC from.
    """
    anomaly, p_auroc = residual_map(crossmodal, features, config), "rgb+3d" + P_AUROC_MAP
    if not bool(anomaly.any()):
        return {"rgb+3d": Prediction(anomaly, 0.0), p_auroc: Prediction(anomaly, 0.0)}
    inside = anomaly[anomaly != 0].mean()
    score = top_mean(anomaly / inside.sqrt(), config.crossmodal.top_fraction)
    return {
        "rgb+3d": Prediction(anomaly / inside, score),
        p_auroc: Prediction(anomaly / anomaly.mean().sqrt(), score),
    }


def residual_map(
    crossmodal: Crossmodal, features: PatchFeatures, config: Config
) -> Float[Tensor, "S S"]:
    """The aggregated residuals at image size, smoothed."""
    size, own = config.preprocess.image_size, config.crossmodal
    patches = aggregate(residuals(crossmodal, features), own.aggregation)
    anomaly = patches.view(features.grid)[None, None]
    if features.grid != (size, size):
        anomaly = F.interpolate(anomaly, (size, size), mode="bilinear")
    return blur(anomaly, own.blur * size)[0, 0]
