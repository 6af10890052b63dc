"""What the backbones see of a scan: main directions of patch features, similarity, separation.

A *space* is `frozen`, features of the frozen backbones, or `adapted`, after training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from sklearn.decomposition import PCA
from torch import Tensor

from lsfa_lib.adaptation.adaptors import adapt
from lsfa_lib.config import Config, resolve_device, with_losses
from lsfa_lib.datasets.entry import Entry
from lsfa_lib.datasets.layouts import Split, split_of
from lsfa_lib.detection.detector import Detector, search
from lsfa_lib.evaluation.metrics import auroc
from lsfa_lib.features.extract import Encoders, distinct_rows, load_encoders, patch_valid
from lsfa_lib.features.lazy_scan import few_shot, good_features, lazy_scan
from lsfa_lib.figures.findings import grouped
from lsfa_lib.figures.style import spread_out
from lsfa_lib.methods.fitting import fit_detector
from lsfa_lib.records import MODALITIES, Modality, PatchFeatures, Sample
from lsfa_lib.storage.files import InputError, progress

Space = Literal["frozen", "adapted"]
Key = tuple[Space, Modality]
MOST_ROWS = 8000
"""Patches the directions are fitted on."""
EDGES = (2.0, 98.0)
"""Percentiles of training patches between which a direction's colours change."""


@dataclass(frozen=True)
class Directions:
    """Principal directions of the patches of good training scans, in one space and modality."""

    mean: Float[np.ndarray, " D"]
    first: Float[np.ndarray, "3 D"]
    """The three along which patches vary most, of unit length."""
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]
    """Coordinates along them that are shown without and with the full colour."""
    shares: Float[np.ndarray, " d"]
    """Of the variance, by direction, largest first; they sum to 1."""

    @property
    def shown(self) -> float:
        """Share of the variance that three colours show."""
        return float(self.shares[:3].sum())

    @property
    def effective(self) -> float:
        """Effective rank of the patches: exp of the entropy of the shares."""
        positive = self.shares[self.shares > 0]
        return float(np.exp(-(positive * np.log(positive)).sum()))


@dataclass(frozen=True)
class Spaces:
    """A category's features: how they are made, what is normal in them, and how they vary."""

    config: Config
    encoders: Encoders
    detectors: dict[Space, Detector]
    directions: dict[Key, Directions]
    train: tuple[Entry, ...]


@dataclass(frozen=True)
class View:
    """One scan with its features in every space."""

    sample: Sample
    features: dict[Space, PatchFeatures]

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.features["frozen"].grid[0]

    @property
    def touched(self) -> Bool[Tensor, " P"]:
        """True for patches of the part that hold a pixel of the defect."""
        defect = self.sample.defect
        return patch_valid(defect, len(defect) // self.grid) & self.features["frozen"].valid


def load(
    category: str, config: Config, seed: int, adapted: bool = False, fit_scans: int = 8
) -> Spaces:
    """Learns the category's good scans; main directions come from `fit_scans` of them.

    Raises InputError where adapted features are requested of a config that trains nothing.
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
    some = Split(tuple(train.entries[i] for i in spread_out(len(train), fit_scans)))
    scans = good_features(some, encoders, config)
    return spaces_of(config, encoders, detectors, some, scans)


def spaces_of(
    config: Config,
    encoders: Encoders,
    detectors: dict[Space, Detector],
    train: Split,
    scans: Sequence[PatchFeatures],
) -> Spaces:
    """The spaces of these detectors, with the main directions of `scans`, those of `train`."""
    directions: dict[Key, Directions] = {}
    for space, detector in detectors.items():
        in_space = [adapt(detector.adaptors, features) for features in scans]
        for m in MODALITIES:
            directions[space, m] = fit_directions([rows_of(one, m) for one in in_space])
    return Spaces(config, encoders, detectors, directions, train.entries)


def fit_directions(scans: list[Float[np.ndarray, "_ D"]]) -> Directions:
    """Principal directions of the rows of several scans, every n-th where there are many."""
    pooled = np.concatenate(scans).astype(np.float64)
    pooled = pooled[:: -(-len(pooled) // MOST_ROWS)]
    pca = PCA(svd_solver="covariance_eigh").fit(pooled)
    low, high = np.percentile(pca.transform(pooled)[:, :3], EDGES, axis=0)
    shares = np.nan_to_num(pca.explained_variance_ratio_)
    return Directions(pca.mean_, pca.components_[:3], low, high, shares)


def look(spaces: Spaces, entry: Entry) -> View:
    """The scan of an entry with its features, cached ones where they exist."""
    scan = lazy_scan(entry, spaces.encoders, spaces.config)
    features = {s: adapt(d.adaptors, scan.features) for s, d in spaces.detectors.items()}
    return View(scan.sample, features)


def rows_of(features: PatchFeatures, m: Modality) -> Float[np.ndarray, "V D"]:
    """Features of the valid patches, one row each."""
    rows, index = distinct_rows(features, m)
    return rows[index[features.valid]].cpu().numpy()


def colors(
    directions: Directions, features: PatchFeatures, m: Modality
) -> UInt8[np.ndarray, "g g 3"]:
    """The patches by their place along the three main directions, as red, green and blue.

    Equal colours mean equal places in every scan of a category; black off the part.
    """
    place = (rows_of(features, m) - directions.mean) @ directions.first.T
    span = np.maximum(directions.high - directions.low, 1e-12)
    image = np.zeros((*features.grid, 3), np.uint8)
    # From 30: the darkest patch is not mistaken for background.
    shade = 30 + 225 * np.clip((place - directions.low) / span, 0, 1)
    image[features.valid.view(features.grid).cpu().numpy()] = shade.round()
    return image


def similarity(
    spaces: Spaces, asked: tuple[View, int], view: View, key: Key
) -> Float[np.ndarray, "g g"]:
    """Cosine similarity of each patch of `view` to one patch of the asked view; NaN off the part.

    Features are centred on the mean of training patches: raw ones all point the same way.
    """
    (source, patch), (space, m) = asked, key
    mean, features = spaces.directions[key].mean, view.features[space]
    before = int(source.features[space].valid[:patch].sum())
    query = rows_of(source.features[space], m)[before] - mean
    rows = rows_of(features, m) - mean
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    patches = np.full(features.grid, np.nan)
    valid = features.valid.view(features.grid).cpu().numpy()
    patches[valid] = rows @ query / np.maximum(lengths, 1e-8)
    return patches


def separation(spaces: Spaces, category: str, scans: int = 0) -> pd.DataFrame:
    """How well the distance to normal patches separates a defect's patches from the part's others.

    A row for each defective test scan, space and modality: `auroc` over the patches of that scan
    alone, 1 where every patch that holds a pixel of the defect has a larger distance than any
    other; NaN where no patch of the part holds one. `scans` limits the scans of each kind; 0 takes
    all.
    """
    kinds = grouped(split_of(spaces.config.data, category, "test").entries, attrgetter("kind"))
    kinds.pop("good", None)
    chosen = [entry for some in kinds.values() for entry in some[: scans or None]]
    rows = []
    for entry in progress(chosen, category):
        view = look(spaces, entry)
        patches = int(view.touched.sum())
        for (space, m), value in _separated(spaces, view).items():
            rows.append((entry.name, entry.kind, space, m, patches, value))
    columns = ["name", "kind", "space", "modality", "patches", "auroc"]
    return pd.DataFrame(rows, columns=columns)


def most_contrasting(separated: pd.DataFrame) -> str:
    """Name of the scan whose defect one modality shows most clearly better than the other."""
    frozen = separated[separated["space"] == "frozen"].dropna()
    if not len(frozen):
        return ""
    wide = frozen.pivot(index="name", columns="modality", values="auroc")
    return str((wide["3d"] - wide["rgb"]).abs().idxmax())


def _separated(spaces: Spaces, view: View) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for space, detector in spaces.detectors.items():
        features = view.features[space]
        searched = search(detector.banks, features, detector.config)
        labels = view.touched[features.valid].cpu()
        for m in MODALITIES:
            distances = searched[m].distances[features.valid].double().cpu()
            both = bool(labels.any()) and not bool(labels.all())
            found[space, m] = auroc(distances, labels) if both else float("nan")
    return found
