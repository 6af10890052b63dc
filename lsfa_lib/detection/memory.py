"""PatchCore's memory: a bank of normal patches, and the distance of a patch to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.detection.sketch import Sketch, nearest_by_sketch, sketch_of
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.records import Modality, PatchFeatures

SKETCHED = 256
"""Width of a row from which a sketch is faster."""


@dataclass(frozen=True)
class Bank:
    """Normal patches of one modality (PatchCore's memory), standardised by their own statistics."""

    rows: Float[Tensor, "M D"]
    mean: float
    std: float
    source: Int[Tensor, "M 2"]
    """(training scan, patch index) each row came from."""
    whitening: Float[Tensor, "D D"] | None = None
    """Already applied to `rows`, after standardisation; None: distances of the features."""

    def standardised(self, patches: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
        """Patches in the space of `rows`."""
        standard = (patches.to(self.rows.dtype) - self.mean) / self.std
        return standard if self.whitening is None else standard @ self.whitening

    @cached_property
    def squared_norms(self) -> Float[Tensor, " M"]:
        """||row||^2, computed once for all searches."""
        return torch.linalg.vector_norm(self.rows, dim=1).square_()

    @cached_property
    def sketch(self) -> Sketch:
        """The rows in reduced form, computed once for all searches."""
        return sketch_of(self.rows)


RowsOf = Callable[[PatchFeatures], tuple[Float[Tensor, "R D"], Int[Tensor, " P"]]]
"""Feature rows of a scan, and the index of the row of each of its P patches (-1: none)."""


def rows_of_modality(modality: Modality) -> RowsOf:
    """The distinct rows of one modality."""
    return lambda features: distinct_rows(features, modality)


@dataclass(frozen=True)
class Searched:
    """The nearest bank row of every patch of one scan."""

    distances: Float[Tensor, " P"]
    """Distance to that row; 0 where a patch has no features."""
    nearest: Int[Tensor, " P"]
    """Index of that row; -1 where a patch has no features."""
    largest: float
    """Largest distance, reweighted if requested."""


def search_bank(bank: Bank, rows_of: RowsOf, features: PatchFeatures, reweighted: bool) -> Searched:
    """Nearest bank rows of a scan; `reweighted` selects PatchCore's image score."""
    rows, index = rows_of(features)
    distances, nearest = nearest_rows(rows, bank)
    held = index >= 0
    patches = torch.zeros_like(index, dtype=distances.dtype)
    patches[held] = distances[index[held]]
    largest = reweighted_score(rows, distances, nearest, bank) if reweighted else None
    index[held] = nearest[index[held]]
    return Searched(patches, index, float(distances.max()) if largest is None else largest)


def nearest_rows(
    patches: Float[Tensor, "P D"], bank: Bank, chunk: int = 2048
) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"]]:
    """Anomaly score of each patch (distance to the closest normal patch), and that patch's index.

    s_p = min_m || (f_p - mean) / std - bank_m ||_2        (PatchCore, Eq. 6)

    `chunk` patches and bank rows are compared at once, which bounds peak memory. Long rows are
    searched with a sketch of the bank, which is exact and several times faster. Matrix products
    round, so the distance is computed from the difference itself.
    """
    standard = bank.standardised(patches)
    if bank.rows.shape[1] < SKETCHED:
        index = nearest_index(standard, bank.rows, chunk=chunk)
    else:
        index = nearest_by_sketch(standard, bank.rows, bank.sketch, chunk)
    return torch.linalg.vector_norm(standard.sub_(bank.rows[index]), dim=1), index


def reweighted_score(
    patches: Float[Tensor, "P D"],
    distances: Float[Tensor, " P"],
    indices: Int[Tensor, " P"],
    bank: Bank,
    neighbours: int = 2,
) -> float:
    """PatchCore's image score: the largest patch distance, reduced where normal patches are dense.

    s = (1 - exp(s* / sqrt(D)) / sum_{m in N(m*)} exp(||f* - m||_2 / sqrt(D))) s*

    s* is the largest of `distances`, f* its patch, m* the row it is closest to (`indices`) and
    N(m*) the `neighbours` bank rows closest to m*, including m* (PatchCore, Eq. 7; the root of D
    is from the public code). A bank of one row has no density: s = s*.
    """
    farthest = distances.argmax()
    score = distances[farthest]
    if len(bank.rows) == 1:
        return score.item()
    patch = bank.standardised(patches[farthest][None])[0]
    near = _rows_around(bank, bank.rows[indices[farthest]], neighbours)
    scale = bank.rows.shape[1] ** 0.5
    to_near = torch.linalg.vector_norm(patch - bank.rows[near], dim=1)
    # The quotient as one exponential, so that neither exp overflows.
    share = torch.exp(score / scale - torch.logsumexp(to_near / scale, 0))
    return ((1 - share) * score).item()


def _rows_around(bank: Bank, centre: Float[Tensor, " D"], k: int) -> Int[Tensor, " k_at_most"]:
    """The `k` rows closest to `centre`: a shortlist by ||r||^2 - 2 r.c, one pass, then exact."""
    rows = bank.rows
    products = torch.addmv(bank.squared_norms, rows, centre, alpha=-2)
    shortlist = products.topk(min(16 * k, len(rows)), largest=False).indices
    distances = torch.linalg.vector_norm(rows[shortlist] - centre, dim=1)
    return shortlist[distances.topk(min(k, len(rows)), largest=False).indices]
