"""Builds a bank from good scans, of which one at a time is held as full feature rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.config import BankConfig
from lsfa_lib.detection.coreset import k_centre, projection_of
from lsfa_lib.detection.memory import Bank, RowsOf
from lsfa_lib.records import PatchFeatures
from lsfa_lib.storage.files import InputError, progress

Part = Callable[[], tuple[Float[Tensor, "R D"], Int[Tensor, "R 2"]]]
"""Computes the feature rows of one scan, and (scan, patch index) of each; called in each pass."""
HELD_SHARE = 0.25
"""Feature rows that take at most this share of `bank.memory_mb` are held from pass to pass."""


def bank_of(
    train: Sequence[PatchFeatures], rows_of: RowsOf, ratio: float, config: BankConfig, seed: int
) -> Bank:
    """The bank of good scans, with as many rows as `ratio` of their valid patches."""
    parts = [partial(_rows_of_scan, i, features, rows_of) for i, features in enumerate(train)]
    patches = sum(int(features.valid.sum()) for features in train)
    return build_bank(parts, max(1, round(ratio * patches)), config, seed)


def _rows_of_scan(
    scan: int, features: PatchFeatures, rows_of: RowsOf
) -> tuple[Float[Tensor, "R D"], Int[Tensor, "R 2"]]:
    rows, index = rows_of(features)
    held = torch.nonzero(index >= 0).flatten()
    first = torch.full((rows.shape[0],), index.shape[0], device=index.device)
    first.scatter_reduce_(0, index[held], held, reduce="amin")
    return rows, torch.stack((torch.full_like(first, scan), first), dim=1)


def build_bank(parts: Sequence[Part], n_keep: int, config: BankConfig, seed: int) -> Bank:
    """Bank of `n_keep` rows of the parts (at most all, or `bank.max_rows`), by greedy k-centre.

    Standardised by the scalar mean and standard deviation of all rows, selected or not. The parts
    are needed three times: for statistics, for selection, which holds them after a random
    projection and in at most `bank.memory_mb`, and for the selected rows. They are computed once if
    all fit in a quarter of that limit, else each time. Raises InputError when the rows do not vary,
    are not finite, or the limit is below the bank's size.
    """
    parts = _held(parts, config.memory_mb * 1e6 * HELD_SHARE)
    moments = Moments(products=config.whitening > 0)
    for part in progress(parts, "bank statistics"):
        moments.add(part()[0])
    mean, std = moments.overall()
    if not max(0.0, 1e-7 * abs(mean)) < std < float("inf"):  # what float32 can distinguish
        raise InputError(
            f"the {moments.count} feature rows of a bank have standard deviation {std:g}, not a "
            "positive number; check the encoder's weights and that the training scans are not empty"
        )
    n_keep = min(n_keep, moments.count, config.max_rows or moments.count)
    drawn = seed if config.seed is None else config.seed
    rows, source = _gathered(parts, _selected(parts, moments.counts, n_keep, config, drawn))
    # One mean and one scale for all numbers: the order of distances is that of the raw rows.
    own = (rows.float() - mean) / std
    if not config.whitening:
        return Bank(own, mean, std, source)
    whitening = whitening_of(moments.covariance(), config.whitening) * std
    return Bank(own @ whitening, mean, std, source, whitening)


def _held(parts: Sequence[Part], room: float) -> list[Part]:
    """The same parts, each computed once while the results of all take at most `room` bytes."""
    held: dict[int, tuple[Tensor, Tensor]] = {}

    def result(i: int) -> tuple[Tensor, Tensor]:
        nonlocal room
        if i in held:
            return held[i]
        found = parts[i]()
        room -= sum(tensor.nbytes for tensor in found)
        if room >= 0:
            held[i] = found
        else:
            held.clear()  # a few of many save little time
        return found

    return [partial(result, i) for i in range(len(parts))]


def whitening_of(covariance: Float[Tensor, "D D"], power: float) -> Float[Tensor, "D D"]:
    """W that gives `rows @ W` equal variance in all directions (power 1), or in part (below 1).

    W = V diag((l + 0.05 mean(l))^(-power / 2)) V', V and l from the covariance of the rows. The 5 %
    keep directions of almost no variance, which are noise, from dominating. V' preserves distances
    and makes W unique: the eigenvectors' signs, and their choice where variances are equal, differ
    between processors.
    """
    variances, directions = torch.linalg.eigh(covariance)
    scale = (variances.clamp_min(0) + 0.05 * variances.mean()).pow(-power / 2)
    return ((directions * scale) @ directions.T).float().contiguous()


def restandardised(bank: Bank, mean: float, std: float) -> Bank:
    """The same bank under other statistics (`released` shares one pair between modalities).

    Raises InputError for a whitened bank, whose directions have statistics of their own.
    """
    if bank.whitening is not None:
        raise InputError("bank.whitening needs bank.statistics own; change one of them")
    return replace(bank, rows=(bank.rows * bank.std + bank.mean - mean) / std, mean=mean, std=std)


@dataclass
class Moments:
    """Mean and scatter of the rows of many scans, merged scan by scan in double precision.

    S = S_a + S_b + (mean_b - mean_a)^2 n_a n_b / n      (Chan, Golub & LeVeque 1983)
    """

    products: bool
    """Of all pairs of dimensions, for the covariance; False: of each dimension."""
    counts: list[int] = field(default_factory=list)
    mean: Float[Tensor, " D"] | None = None
    scatter: Float[Tensor, " D"] | Float[Tensor, "D D"] | float = 0.0

    @property
    def count(self) -> int:
        """Rows added."""
        return sum(self.counts)

    def add(self, rows: Float[Tensor, "R D"]) -> None:
        """Merges the rows of one scan."""
        rows, before = rows.double(), self.count
        self.counts.append(len(rows))
        if not len(rows):
            return
        mean = rows.mean(0)
        centred = rows - mean
        self.scatter = self.scatter + (
            centred.T @ centred if self.products else centred.square().sum(0)
        )
        if self.mean is None:
            self.mean = mean
            return
        delta = mean - self.mean
        between = torch.outer(delta, delta) if self.products else delta.square()
        self.scatter += between * (before * len(rows) / self.count)
        self.mean += delta * (len(rows) / self.count)

    def covariance(self) -> Float[Tensor, "D D"]:
        """Of the dimensions, with N - 1 in the denominator; needs `products`."""
        assert isinstance(self.scatter, Tensor)
        return self.scatter / (self.count - 1)

    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers in all rows."""
        assert self.mean is not None and isinstance(self.scatter, Tensor)
        own = self.scatter.diagonal() if self.products else self.scatter
        mean = self.mean.mean()
        squares = own.sum() + self.count * (self.mean - mean).square().sum()
        return mean.item(), (squares / (self.count * len(self.mean) - 1)).sqrt().item()


def _selected(
    parts: Sequence[Part], counts: Sequence[int], n_keep: int, config: BankConfig, seed: int
) -> Int[Tensor, "n_keep 2"]:
    """(part, row) of the greedy k-centre of all parts.

    Where the projected rows of all parts exceed `bank.memory_mb`, each part is first reduced to at
    most an equal number of rows by a k-centre of its own. A row is then at most the radius of its
    part's selection farther from the bank than the row that was selected in its place.
    """
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(sum(counts), (1,), generator=generator))
    example = _floats(parts[0]()[0])
    projection = projection_of(sum(counts), example, config.projection_eps, generator)
    width = example.shape[1] if projection is None else projection.shape[1]
    room = int(config.memory_mb * 1e6 / (4 * width))
    share = _equal_share(counts, room)
    if (held := sum(min(count, share) for count in counts)) < n_keep:
        least = math.ceil(4e-6 * width * (n_keep + len(parts)))
        raise InputError(
            f"bank.memory_mb {config.memory_mb:g} holds {held} of {sum(counts)} feature rows, but "
            f"the bank keeps {n_keep}; set it to {least} or more, or lower bank.keep_ratio"
        )
    points, start = example.new_empty(held, width), 0
    taken: list[Int[Tensor, "r 2"]] = []
    for i, part in enumerate(progress(parts, "bank rows")):
        own = _floats(part()[0])
        own = own if projection is None else own @ projection
        rows = torch.arange(len(own), device=own.device)
        if len(own) > share:
            rows = k_centre(own - own.mean(0), share)
        points[start : start + len(rows)] = own[rows]
        taken.append(torch.stack((torch.full_like(rows, i), rows), dim=1))
        start += len(rows)
    points -= points.mean(0)
    return torch.cat(taken)[k_centre(points, n_keep, first % held, "coreset")]


def _equal_share(counts: Sequence[int], room: int) -> int:
    """The largest s with sum_i min(count_i, s) <= room; at most the largest count."""
    for i, count in enumerate(sorted(counts)):
        share = room // (len(counts) - i)
        if count > share:
            return share
        room -= count
    return max(counts)


def _floats(rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
    """At least in single precision."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _gathered(
    parts: Sequence[Part], kept: Int[Tensor, "K 2"]
) -> tuple[Float[Tensor, "K D"], Int[Tensor, "K 2"]]:
    """The kept (part, row) pairs as rows with their sources, in that order."""
    example, source = parts[0]()
    rows = example.new_empty(len(kept), example.shape[1])
    sources = source.new_empty(len(kept), 2)
    for i in torch.unique(kept[:, 0]).tolist():
        at = (kept[:, 0] == i).nonzero().flatten()
        own, source = parts[i]()
        rows[at], sources[at] = own[kept[at, 1]], source[kept[at, 1]]
    return rows, sources
