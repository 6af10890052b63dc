"""What the backbones see of a scan: main directions of patch features, similarity, separation.

A *space* is `frozen`, features as the backbones give them, or `adapted`, after training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config, resolve_device, with_losses
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection.detector import Detector, search
from lsfa_lib.evaluation.metrics import auroc
from lsfa_lib.features.cache import cached_features
from lsfa_lib.features.extract import Encoders, distinct_rows, load_encoders
from lsfa_lib.features.lazy_scan import few_shot, good_features, read_sample
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress

Space = Literal["frozen", "adapted"]
MOST_ROWS = 8000
"""Patches the directions are fitted on."""
EDGES = (2.0, 98.0)
"""Percentiles of training patches between which a direction's colours change."""


@dataclass(frozen=True)
class Directions:
    """Principal directions of the patches of good training scans, in one space and modality."""

    mean: Float[Tensor, " D"]
    first: Float[Tensor, "3 D"]
    """The three along which patches vary most, of unit length."""
    low: Float[Tensor, " 3"]
    high: Float[Tensor, " 3"]
    """Coordinates along them that are shown as none and as all of a colour."""
    shares: Float[np.ndarray, " d"]
    """Of the variance, by direction, largest first; they sum to 1."""

    @property
    def shown(self) -> float:
        """Share of the variance that three colours show."""
        return float(self.shares[:3].sum())

    @property
    def effective(self) -> float:
        """Number of directions in which the patches vary: exp of the entropy of the shares."""
        positive = self.shares[self.shares > 0]
        return float(np.exp(-(positive * np.log(positive)).sum()))

    def needed(self, share: float) -> int:
        """Least number of directions that hold this share of the variance."""
        return int(np.searchsorted(self.shares.cumsum(), share - 1e-9) + 1)


@dataclass(frozen=True)
class Spaces:
    """A category's features: how they are made, what is normal in them, and how they vary."""

    config: Config
    encoders: Encoders
    detectors: dict[Space, Detector]
    directions: dict[tuple[Space, Modality], Directions]
    train: tuple[Entry, ...]


@dataclass(frozen=True)
class View:
    """One scan with its features in every space."""

    sample: Sample
    features: dict[Space, PatchFeatures]

    @property
    def touched(self) -> Bool[Tensor, " P"]:
        """True for patches of the part that hold a pixel of the defect."""
        features = self.features["frozen"]
        side, grid = self.sample.defect.shape[0], features.grid[0]
        patches = self.sample.defect.view(grid, side // grid, grid, side // grid)
        return patches.any(dim=3).any(dim=1).flatten() & features.valid


def load(
    category: str, config: Config, seed: int, adapted: bool = False, fit_scans: int = 8
) -> Spaces:
    """Learns the category's good scans; main directions come from `fit_scans` of them.

    Raises InputError where adapted features are asked of a config that trains nothing.
    """
    configs: dict[Space, Config] = {"frozen": with_losses(config, "none")}
    if adapted:
        if not any(asdict(config.training.weights).values()):
            raise InputError(
                "adapted features need a training: set only to both, IFC or CLC, or adapted false"
            )
        configs["adapted"] = config
    encoders = load_encoders(config, resolve_device(config.device))
    detectors = {
        space: fit_detector(category, some, seed).detector for space, some in configs.items()
    }
    train = few_shot(split_of(config.data, category, "train"), config.shots, seed)
    places = np.linspace(0, len(train) - 1, min(fit_scans, len(train))).round().astype(int)
    some = Split(tuple(train.entries[i] for i in places.tolist()))
    scans = good_features(some, encoders, config)
    directions: dict[tuple[Space, Modality], Directions] = {}
    for space, detector in detectors.items():
        in_space = [_in_space(features, detector) for features in scans]
        for m in MODALITIES:
            directions[space, m] = fit_directions([rows_of(one, m) for one in in_space])
    return Spaces(config, encoders, detectors, directions, some.entries)


def fit_directions(scans: list[Float[Tensor, "_ D"]]) -> Directions:
    """Principal directions of the rows of several scans, every n-th where there are many."""
    pooled = torch.cat(scans).double()
    pooled = pooled[:: -(-len(pooled) // MOST_ROWS)]
    mean = pooled.mean(0)
    centred = pooled - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    # A direction and its opposite are the same: the largest entry is made positive.
    first = F.pad(vectors.flip(1), (0, max(0, 3 - len(mean))))[:, :3].T
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    first = first * torch.where(largest < 0, -1.0, 1.0)
    edges = np.percentile((centred @ first.T).cpu().numpy(), EDGES, axis=0)
    low, high = torch.from_numpy(edges).float().to(mean.device)
    variances = values.flip(0).clamp_min(0)
    shares = variances / variances.sum().clamp_min(1e-300)
    return Directions(mean.float(), first.float(), low, high, shares.cpu().numpy())


def look(spaces: Spaces, entry: Entry) -> View:
    """The scan of an entry; its features come from the cache where they are there."""
    sample = read_sample(entry, spaces.config)
    device = resolve_device(spaces.config.device)
    features = cached_features(
        entry, spaces.encoders, spaces.config, device, partial(_same, sample)
    )
    return View(sample, {s: _in_space(features, d) for s, d in spaces.detectors.items()})


def rows_of(features: PatchFeatures, m: Modality) -> Float[Tensor, "V D"]:
    """Features of the valid patches, one row each."""
    rows, index = distinct_rows(features, m)
    return rows[index[features.valid]]


def colors(
    directions: Directions, features: PatchFeatures, m: Modality
) -> UInt8[np.ndarray, "g g 3"]:
    """The patches by their place along the three main directions, as red, green and blue.

    Equal colours mean equal places in every scan of a category; black off the part.
    """
    place = (rows_of(features, m) - directions.mean) @ directions.first.T
    span = (directions.high - directions.low).clamp_min(1e-12)
    # From 30: the darkest patch is not mistaken for background.
    shade = 30 + 225 * ((place - directions.low) / span).clamp(0, 1)
    picture = torch.zeros(len(features.valid), 3, device=shade.device)
    picture[features.valid] = shade
    return picture.view(*features.grid, 3).round().byte().cpu().numpy()


def similarity(
    directions: Directions, asked: tuple[View, int], view: View, space: Space, m: Modality
) -> Float[np.ndarray, "g g"]:
    """Cosine similarity of each patch of `view` to one patch of the asked view; NaN off the part.

    Features are taken from the mean of training patches: raw ones all point the same way.
    """
    source, patch = asked
    before = int(source.features[space].valid[:patch].sum())
    query = rows_of(source.features[space], m)[before] - directions.mean
    features = view.features[space]
    found = F.cosine_similarity(rows_of(features, m) - directions.mean, query[None], dim=1)
    patches = torch.full_like(features.valid, torch.nan, dtype=torch.float32)
    patches[features.valid] = found
    return patches.view(features.grid).cpu().numpy()


def telling_patches(view: View, pixel: tuple[int, int] | None = None) -> dict[str, int]:
    """Patches worth a comparison: the defect's middle, the part's middle, its rim, and a pixel's.

    Raises InputError for a pixel (row, column) that is not on the part.
    """
    features = view.features["frozen"]
    valid = features.valid.view(features.grid).cpu().numpy()
    depth = ndimage.distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    found: dict[str, int] = {}
    if pixel is not None:
        side = view.sample.valid.shape[0] // features.grid[0]
        row, column = (int(p) // side for p in pixel)
        if not (0 <= row < len(valid) and 0 <= column < len(valid) and valid[row, column]):
            raise InputError(
                f"pixel {tuple(pixel)} (row, column) is not on the part of {view.sample.name}; "
                "choose one on it"
            )
        found["chosen"] = row * len(valid) + column
    touched = view.touched.view(features.grid).cpu().numpy()
    if touched.any():
        found["defect"] = _deepest(touched)
    found["middle"] = int(depth.argmax())
    rim = np.flatnonzero((depth.ravel() > 0) & (depth.ravel() <= depth[valid].min()))
    # Away from the middle: the rim's patch that lies farthest from it.
    rows, columns = np.divmod(rim, len(valid))
    middle = np.divmod(found["middle"], len(valid))
    found["rim"] = int(rim[np.hypot(rows - middle[0], columns - middle[1]).argmax()])
    return found


def separation(spaces: Spaces, category: str, scans: int = 0) -> pd.DataFrame:
    """How well the distance to normal patches tells a defect's patches from the part's others.

    A row a defective test scan, space and modality: `auroc` over the patches of that scan alone,
    1 where every patch that holds a pixel of the defect is farther than every other. NaN where no
    patch of the part holds one. `scans` limits the scans of each kind; 0 takes all.
    """
    split = split_of(spaces.config.data, category, "test")
    kinds: dict[str, list[Entry]] = {}
    for entry in split.entries:
        kinds.setdefault(entry.kind, []).append(entry)
    kinds.pop("good", None)
    chosen = [entry for some in kinds.values() for entry in (some[:scans] if scans else some)]
    rows = []
    for entry in progress(chosen, category):
        view = look(spaces, entry)
        for (space, m), value in _separated(spaces, view).items():
            row = {"name": entry.name, "kind": entry.kind, "space": space, "modality": m}
            rows.append({**row, "patches": int(view.touched.sum()), "auroc": value})
    columns = ["name", "kind", "space", "modality", "patches", "auroc"]
    return pd.DataFrame(rows, columns=columns)


def most_telling(separated: pd.DataFrame) -> str:
    """Name of the scan whose defect one modality sees and the other does not, by most."""
    frozen = separated[separated["space"] == "frozen"].dropna()
    if not len(frozen):
        return ""
    wide = frozen.pivot(index="name", columns="modality", values="auroc")
    return str((wide["3d"] - wide["rgb"]).abs().idxmax())


def _separated(spaces: Spaces, view: View) -> dict[tuple[Space, Modality], float]:
    found: dict[tuple[Space, Modality], float] = {}
    for space, detector in spaces.detectors.items():
        features = view.features[space]
        searched = search(detector.banks, features, detector.config)
        labels = view.touched[features.valid].cpu()
        for m in MODALITIES:
            distances = searched[m].distances[features.valid].double().cpu()
            both = bool(labels.any()) and not bool(labels.all())
            found[space, m] = auroc(distances, labels) if both else float("nan")
    return found


def _in_space(features: PatchFeatures, detector: Detector) -> PatchFeatures:
    return features if detector.adaptors is None else adapt(detector.adaptors, features)


def _deepest(mask: Bool[np.ndarray, "g g"]) -> int:
    """The patch farthest from the mask's outside, of equal ones the nearest to its middle."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    middle = np.argwhere(mask).mean(axis=0)
    rows, columns = np.nonzero(depth == depth.max())
    best = np.hypot(rows - middle[0], columns - middle[1]).argmin()
    return int(rows[best] * len(mask) + columns[best])


def _same(sample: Sample) -> Sample:
    return sample
