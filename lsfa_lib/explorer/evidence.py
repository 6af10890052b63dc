"""Why a detector flags a patch: the closest normal patch, and the two modalities blended.

A position from 0 (RGB alone) over 0.5 (the detector's RGB + 3D) to 1 (3D alone) blends the two
modalities; maps, scores and threshold all follow it. A detector of one modality has no positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split
from lsfa_lib.detection.detector import Detector, predictions_of, search, standardise
from lsfa_lib.detection.maps import smooth_map
from lsfa_lib.detection.memory import Searched
from lsfa_lib.detection.thresholds import threshold_of
from lsfa_lib.features.checkpoints import write_tensors
from lsfa_lib.features.extract import Encoders, patch_valid
from lsfa_lib.features.lazy_scan import lazy_scan
from lsfa_lib.records import MODALITIES, Modality, Prediction, is_defective
from lsfa_lib.storage.files import progress

Value = TypeVar("Value", float, np.ndarray)
BY_MODALITY = ("distances", "nearest", "scores", "good")
"""Fields of Evidence that are stored once per modality."""


@dataclass(frozen=True)
class Evidence:
    """N test scans patch by patch, as one detector sees them."""

    entries: tuple[Entry, ...]
    valid: Bool[np.ndarray, "N S S"]
    distances: dict[Modality, Float[np.ndarray, "N P"]]
    """To the nearest bank row; 0 off the part."""
    nearest: dict[Modality, Int[np.ndarray, "N P"]]
    """That row; -1 off the part."""
    scores: dict[Modality, Float[np.ndarray, " N"]]
    """Image scores, standardised."""
    good: dict[Modality, Float[np.ndarray, " n"]]
    """Distances of all patches of validation/good to the bank, in order."""

    @property
    def names(self) -> list[str]:
        """Names of the scans."""
        return [entry.name for entry in self.entries]

    def known_as(self, defective: bool) -> Bool[np.ndarray, " N"]:
        """True for the scans that are known to be defective, or known to be good."""
        return np.array([is_defective(entry.kind) is defective for entry in self.entries])


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
    source: Entry
    """Training scan the normal patch came from."""
    patch: int
    """Its number on that scan's grid."""


def scored(
    validation: Split, test: Split, detector: Detector, encoders: Encoders, config: Config
) -> Evidence:
    """Evidence on the test split, with the distances of the good validation parts."""
    good = [found for _, found, _ in _searched(validation, detector, encoders, config)]
    masks, searched, scores = zip(*_searched(test, detector, encoders, config), strict=True)
    used = tuple(detector.banks)
    return Evidence(
        entries=test.entries,
        valid=_stacked(masks),
        distances={m: _stacked([f[m].distances.float() for f in searched]) for m in used},
        nearest={m: _stacked([f[m].nearest.int() for f in searched]) for m in used},
        scores={m: np.array([own[m] for own in scores]) for m in used},
        good={m: np.sort(_of_patches([found[m] for found in good])) for m in used},
    )


def _searched(
    split: Split, detector: Detector, encoders: Encoders, config: Config
) -> Iterator[tuple[torch.Tensor, dict[Modality, Searched], dict[Modality, float]]]:
    """Pixels of the part, the search of the banks, and the standardised scores, of each scan."""
    for entry in progress(split.entries, "/".join(split.entries[0].name.split("/")[:2])):
        scan = lazy_scan(entry, encoders, config)
        sample, features = scan.sample, scan.features
        found = search(detector.banks, adapt(detector.adaptors, features), detector.config)
        alone = standardise(predictions_of(found, features, config), detector.scales)
        yield sample.valid, found, {m: prediction.image_score for m, prediction in alone.items()}


def _stacked(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.stack(tuple(tensors)).cpu().numpy()


def _of_patches(searched: list[Searched]) -> Float[np.ndarray, " n"]:
    """Distances of all patches that have features."""
    return torch.cat([f.distances[f.nearest >= 0] for f in searched]).float().cpu().numpy()


def read_evidence(path: Path, test: tuple[Entry, ...], side: int) -> Evidence | None:
    """The kept evidence on `test`, of images of `side` px; None where it is missing or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            kept: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError):
        return None
    valid = np.unpackbits(kept["valid"], axis=-1, count=side).astype(bool)
    used = [m for m in MODALITIES if f"{m}.scores" in kept]
    parts = {part: {m: kept[f"{m}.{part}"] for m in used} for part in BY_MODALITY}
    return Evidence(test, valid, **parts)


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Writes what `read_evidence` reads."""
    tensors = {"valid": np.packbits(evidence.valid, axis=-1)}
    for part in BY_MODALITY:
        tensors |= {f"{m}.{part}": own for m, own in getattr(evidence, part).items()}
    write_tensors(path, {name: torch.from_numpy(own) for name, own in tensors.items()})


def reasons(
    evidence: Evidence, scan: int, patch: int, detector: Detector, train: Sequence[Entry]
) -> list[Reason]:
    """The closest normal patch of a patch in RGB and in 3D; nothing off the part."""
    found = []
    for m in reversed(list(evidence.nearest)):
        row = int(evidence.nearest[m][scan, patch])
        if row < 0:
            continue
        distance, good = float(evidence.distances[m][scan, patch]), evidence.good[m]
        source, place = detector.banks[m].source[row].tolist()
        median, usual = np.quantile(good, (0.5, 0.99)).tolist()
        nearer = float(np.searchsorted(good, distance) / len(good))
        found.append(Reason(m, distance, nearer, median, usual, train[source], place))
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
    One modality alone is returned as it is.
    """
    if len(by_modality) == 1:
        return next(iter(by_modality.values()))
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
    scores = {m: np.array(detector.validation_scores[m]) for m in detector.banks}
    return threshold_of(blended(scores, position, rules.fusion).tolist(), rules)
