"""PatchCore's memory: a bank of normal patches, and the distance of a patch to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.adaptation.nearest import nearest_index
from lsfa_lib.config import BankConfig
from lsfa_lib.detection.coreset import greedy_k_centre
from lsfa_lib.detection.sketch import Sketch, nearest_by_sketch, sketch_of
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.records import Modality, PatchFeatures
from lsfa_lib.storage.files import InputError

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


def bank_of(
    train: Sequence[PatchFeatures], rows_of: RowsOf, ratio: float, config: BankConfig, seed: int
) -> Bank:
    """The bank of good scans, with as many rows as `ratio` of their valid patches."""
    parts, sources = [], []
    for scan, features in enumerate(train):
        rows, index = rows_of(features)
        held = torch.nonzero(index >= 0).flatten()
        first = torch.full((rows.shape[0],), index.shape[0], device=index.device)
        first.scatter_reduce_(0, index[held], held, reduce="amin")
        parts.append(rows)
        sources.append(torch.stack((torch.full_like(first, scan), first), dim=1))
    rows, patches = torch.cat(parts), sum(int(features.valid.sum()) for features in train)
    keep = min(len(rows), max(1, round(ratio * patches)))
    return build_bank(rows, torch.cat(sources), keep, config, seed)


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


def build_bank(
    rows: Float[Tensor, "N D"],
    source: Int[Tensor, "N 2"],
    n_keep: int,
    config: BankConfig,
    seed: int,
) -> Bank:
    """Bank of `n_keep` of the `rows`, the normal patches of one modality, by greedy k-centre.

    Standardised by the scalar mean and standard deviation of all N rows, selected or not. All rows
    may be selected. Raises InputError when the rows do not vary or are not finite.
    """
    std, mean = (statistic.item() for statistic in torch.std_mean(rows.float()))
    if not 0 < std < float("inf"):
        raise InputError(
            f"the {len(rows)} feature rows of a bank have standard deviation {std}, not a positive "
            "number; check the encoder's weights and that the training scans are not empty"
        )
    # One mean and one scale for all numbers: the order of distances is that of the raw rows.
    drawn = seed if config.seed is None else config.seed
    kept = greedy_k_centre(rows, n_keep, drawn, config.projection_eps)
    own = (rows[kept].float() - mean) / std
    if not config.whitening:
        return Bank(own, mean, std, source[kept])
    whitening = whitening_of(rows, config.whitening) * std
    return Bank(own @ whitening, mean, std, source[kept], whitening)


def whitening_of(rows: Float[Tensor, "N D"], power: float) -> Float[Tensor, "D D"]:
    """W that gives `rows @ W` equal variance in all directions (power 1), or in part (below 1).

    W = V diag((l + 0.05 mean(l))^(-power / 2)), V and l from the covariance of the rows. The 5 %
    keep directions of almost no variance, which are noise, from dominating.
    """
    variances, directions = torch.linalg.eigh(torch.cov(rows.double().T))
    scale = (variances.clamp_min(0) + 0.05 * variances.mean()).pow(-power / 2)
    return (directions * scale).float().contiguous()


def restandardised(bank: Bank, mean: float, std: float) -> Bank:
    """The same bank under other statistics (`released` shares one pair between modalities).

    Raises InputError for a whitened bank, whose directions have statistics of their own.
    """
    if bank.whitening is not None:
        raise InputError("bank.whitening needs bank.statistics own; change one of them")
    return replace(bank, rows=(bank.rows * bank.std + bank.mean - mean) / std, mean=mean, std=std)


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
