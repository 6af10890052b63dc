"""Why a detector flags a patch: the closest normal patch, and the two modalities blended.

A position from 0 (RGB alone) over 0.5 (the detector's RGB + 3D) to 1 (3D alone) blends the two
modalities; maps, scores and threshold all follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lsfa_lib.config import Config
from lsfa_lib.detection.detector import Detector, standardise, threshold_of
from lsfa_lib.detection.maps import smooth_map
from lsfa_lib.detection.memory import Searched
from lsfa_lib.features.extract import patch_valid
from lsfa_lib.records import MODALITIES, Modality, Prediction, is_defective

Value = TypeVar("Value", float, np.ndarray)
Distances = dict[Modality, Float[np.ndarray, " N"]]


@dataclass(frozen=True)
class Evidence:
    """N test scans patch by patch, as one detector sees them."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    valid: Bool[np.ndarray, "N S S"]
    distances: dict[Modality, Float[np.ndarray, "N P"]]
    """To the nearest bank row; 0 off the part."""
    nearest: dict[Modality, Int[np.ndarray, "N P"]]
    """That row; -1 off the part."""
    scores: dict[Modality, Float[np.ndarray, " N"]]
    """Image scores, standardised."""

    @property
    def defective(self) -> Bool[np.ndarray, " N"]:
        """True for the scans that are known to have a defect."""
        return np.array([is_defective(kind) is True for kind in self.kinds])

    @property
    def labelled(self) -> Bool[np.ndarray, " N"]:
        """True for the scans that are known to be good or defective."""
        return np.array([is_defective(kind) is not None for kind in self.kinds])


@dataclass(frozen=True)
class Reason:
    """The normal patch closest to a patch, in one modality."""

    modality: Modality
    distance: float
    nearer: float
    """Share of the patches of good validation parts that are closer to the bank."""
    median: float
    """Their median distance."""
    usual: float
    """99th percentile of their distances."""
    source: int
    """Training scan the normal patch came from."""
    patch: int
    """Its number on that scan's grid."""


@dataclass(frozen=True)
class Confusion:
    """Test parts by what they are and how they are classified."""

    found: int
    missed: int
    rejected: int
    passed: int


def gathered(
    searched: Sequence[dict[Modality, Searched]],
    valid: Sequence[Bool[torch.Tensor, "S S"]],
    named: Sequence[tuple[str, str]],
    scores: Sequence[dict[Modality, float]],
) -> Evidence:
    """What was found of each scan, together; `named` are their (name, kind)."""
    return Evidence(
        names=tuple(name for name, _ in named),
        kinds=tuple(kind for _, kind in named),
        valid=np.stack([mask.cpu().numpy() for mask in valid]),
        distances={
            m: np.stack([found[m].distances.float().cpu().numpy() for found in searched])
            for m in MODALITIES
        },
        nearest={
            m: np.stack([found[m].nearest.cpu().numpy() for found in searched]) for m in MODALITIES
        },
        scores={m: np.array([own[m] for own in scores]) for m in MODALITIES},
    )


def good_distances(searched: Sequence[dict[Modality, Searched]]) -> Distances:
    """Distances of all patches of good parts to the bank, in order."""
    return {
        m: np.sort(
            torch.cat([f[m].distances[f[m].nearest >= 0] for f in searched]).float().cpu().numpy()
        )
        for m in MODALITIES
    }


def reasons(
    evidence: Evidence, scan: int, patch: int, detector: Detector, good: Distances
) -> list[Reason]:
    """The closest normal patch of a patch in RGB and in 3D; nothing off the part."""
    found = []
    for m in reversed(MODALITIES):
        row = int(evidence.nearest[m][scan, patch])
        if row < 0:
            continue
        distance = float(evidence.distances[m][scan, patch])
        source, place = detector.banks[m].source[row].tolist()
        median, usual = np.quantile(good[m], (0.5, 0.99)).tolist()
        nearer = float(np.searchsorted(good[m], distance) / len(good[m]))
        found.append(Reason(m, distance, nearer, median, usual, source, place))
    return found


def patch_at(row: int, column: int, config: Config) -> int:
    """Number of the patch that holds a pixel of the encoders' image."""
    px = config.projection.patch_px
    return row // px * config.grid + column // px


def middle_of(patch: int, config: Config) -> tuple[int, int]:
    """Row and column of the pixel in the middle of a patch."""
    px = config.projection.patch_px
    row, column = divmod(patch, config.grid)
    return row * px + px // 2, column * px + px // 2


def standardised_maps(
    evidence: Evidence, scan: int, detector: Detector
) -> dict[Modality, Float[np.ndarray, "S S"]]:
    """The map that `detector.predict` returns of this scan in each modality."""
    config = detector.config
    px, side = config.projection.patch_px, config.grid
    inside = patch_valid(torch.from_numpy(evidence.valid[scan]), px).view(side, side)
    inside = inside.repeat_interleave(px, 0).repeat_interleave(px, 1)
    found = {}
    for m, distances in evidence.distances.items():
        patches = torch.from_numpy(distances[scan]).view(side, side)
        found[m] = Prediction(smooth_map(patches, inside, config), 0.0)
    standard = standardise(found, detector.scales)
    return {m: prediction.anomaly_map.numpy() for m, prediction in standard.items()}


def blended(
    by_modality: dict[Modality, Value],
    position: float,
    fusion: Literal["mean", "sum", "product"],
) -> Value:
    """RGB and 3D at a position between them, fused as the detector fuses.

    mean: (1 - p) rgb + p 3d.  sum, product: each modality counts in full up to the middle and
    fades out beyond it. So the ends are one modality alone and the middle is the detector's mode.
    """
    shape, colour = by_modality["3d"], by_modality["rgb"]
    if fusion == "mean":
        return position * shape + (1 - position) * colour
    of_shape, of_colour = min(1.0, 2 * position), min(1.0, 2 * (1 - position))
    if fusion == "sum":
        return of_shape * shape + of_colour * colour
    return shape**of_shape * colour**of_colour


def blended_threshold(detector: Detector, position: float) -> float:
    """The detector's threshold at a position, from its validation/good scores."""
    rules = detector.config.detector
    scores = {m: np.array(detector.validation_scores[m]) for m in MODALITIES}
    return threshold_of(blended(scores, position, rules.fusion).tolist(), rules.false_alarm_rate)


def confusion(
    scores: Float[np.ndarray, " N"], defective: Bool[np.ndarray, " N"], threshold: float
) -> Confusion:
    """How many parts lie above the threshold, of those with a defect and of those without."""
    above = scores > threshold
    pairs = (above & defective, ~above & defective, above & ~defective, ~above & ~defective)
    return Confusion(*(int(pair.sum()) for pair in pairs))
