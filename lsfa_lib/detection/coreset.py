"""Greedy k-centre selection: a few rows such that every row is close to a selected one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.storage.files import InputError, progress

CANDIDATES = 512
CHUNK_ROWS = 1024
LEVEL = 0.95
"""Share of the largest gap that the level falls to; 0.8, 0.9 and 0.98 were slower."""
FEWEST = 16384
"""The level falls until at least so many gaps reach it: small groups cost more than they save."""
TILE = 64
"""Matrix products are a fifth faster on full tiles; other picks are left to the next block."""


def greedy_k_centre(
    rows: Float[Tensor, "N D"], n_keep: int, seed: int, projection_eps: float = 0.9
) -> Int[Tensor, " n_keep"]:
    """Indices of `n_keep` distinct rows; each is the farthest from all rows selected before it.

    max_i min_{j kept} ||x_i - x_j|| is at most twice the least possible    (Sener & Savarese;
    PatchCore's coreset). The first row is drawn from `seed`, ties go to the lowest index. Rows are
    compared after a Gaussian random projection that keeps squared distances within
    1 +- `projection_eps` (Johnson-Lindenstrauss), if that at least halves their width; 0: no
    projection.

    The result is the same as adding one row at a time, up to float rounding: distances below about
    0.2 % of a row's length, after centring, cannot be distinguished from 0. Raises InputError when
    n_keep is not in 1..N.
    """
    if not 1 <= n_keep <= len(rows):
        raise InputError(f"cannot keep {n_keep} of {len(rows)} rows; keep 1 to {len(rows)}")
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(rows), (1,), generator=generator))
    points = rows.to(torch.promote_types(rows.dtype, torch.float32))
    projection = projection_of(len(rows), points, projection_eps, generator)
    points = points if projection is None else points @ projection
    return k_centre(points - points.mean(0), n_keep, first, "coreset")


def k_centre(
    points: Float[Tensor, "N d"], n_keep: int, first: int = 0, label: str = ""
) -> Int[Tensor, " n_keep"]:
    """Indices of the greedy picks among centred points, from the row `first` on.

    With a label, progress is shown.
    """
    blocks = _blocks(points, torch.tensor([first], device=points.device), n_keep)
    picks = (pick for block in blocks for pick in block.tolist())
    kept = list(progress(picks, label, n_keep) if label else picks)
    return torch.tensor(kept, device=points.device)


def johnson_lindenstrauss_width(n: int, eps: float) -> int:
    """Dimensions that keep the squared distances of `n` points within 1 +- eps.

    4 ln n / (eps^2 / 2 - eps^3 / 3)        (Dasgupta & Gupta 2003)
    """
    # scikit-learn has this too, but its import takes almost three seconds in every kernel.
    return int(4 * math.log(n) / (eps**2 / 2 - eps**3 / 3))


def projection_of(
    n: int, rows: Float[Tensor, "R D"], eps: float, generator: torch.Generator
) -> Float[Tensor, "D d"] | None:
    """Gaussian random projection for `n` rows of the width, type and device of `rows`.

    It has the Johnson-Lindenstrauss width for `n` and `eps`; None where that would not at least
    halve D, or for eps 0.
    """
    width = johnson_lindenstrauss_width(n, eps) if eps else rows.shape[1]
    if not 0 < 2 * width <= rows.shape[1]:  # a smaller reduction is not worth the distortion
        return None
    # Drawn on the CPU, so that a seed gives the same selection on every device.
    projection = torch.randn(rows.shape[1], width, generator=generator, dtype=rows.dtype)
    return (projection / width**0.5).to(rows.device)


def _blocks(
    points: Float[Tensor, "N d"], first: Int[Tensor, " 1"], n_keep: int
) -> Iterator[Int[Tensor, " B"]]:
    """The greedy picks in order, in blocks of as many as the candidates' distances determine.

    A row's gap, its squared distance to the nearest pick, only falls. While some gap exceeds a
    level, rows below it cannot be next: they are compared with later picks when the level has
    fallen to their last known gap, which about halves the work on backbone features.
    """
    gaps = _Gaps(points, n_keep)
    block = first
    while True:
        yield block
        gaps.add(block)
        if gaps.count == n_keep:
            return
        block = _next_block(gaps, n_keep - gaps.count)


class _Gaps:
    """Upper bounds of the gaps; exact for the active rows, which are those above the level."""

    def __init__(self, points: Float[Tensor, "N d"], n_keep: int) -> None:
        self.points = points
        self.norms = torch.cat([part.square().sum(1) for part in torch.split(points, CHUNK_ROWS)])
        self.gap = torch.full_like(self.norms, torch.inf)
        """-1 for picks."""
        self.active = torch.arange(len(points), device=points.device)
        """In ascending order."""
        self.level = torch.inf
        self.picks = self.active.new_empty(n_keep)
        self.count = 0
        self.seen = torch.zeros_like(self.active, dtype=torch.int32)
        """Number of picks that an inactive row was compared with."""

    def add(self, block: Int[Tensor, " B"]) -> None:
        """Adds picks; lowers the level if no row is above it."""
        self.picks[self.count : self.count + len(block)] = block
        self.count += len(block)
        self._compare(self.active, self.count - len(block))
        self.gap[block] = -1
        self.seen[self.active] = self.count
        self.active = self.active[self.gap[self.active] > self.level]
        while not len(self.active) and (largest := self.gap.max().item()) > 0:
            least = self.gap.topk(min(FEWEST, len(self.gap))).values[-1].item()
            self.level = max(0.0, min(LEVEL * largest, least))
            rows = (self.gap > self.level).nonzero().squeeze(1)
            seen = self.seen[rows]
            for since in torch.unique(seen[seen < self.count]).tolist():
                self._compare(rows[seen == since], since)
            self.seen[rows] = self.count
            self.active = rows[self.gap[rows] > self.level]

    def _compare(self, rows: Int[Tensor, " R"], since: int) -> None:
        """Lowers the gaps of rows by the picks from number `since` on."""
        for picks in torch.split(self.picks[since : self.count], CANDIDATES):
            picked, bias = self.points[picks], self.norms[picks, None]
            for chunk in torch.split(rows, CHUNK_ROWS):
                nearest = _products(picked, bias, self.points[chunk]).amin(0)
                squared = _squared_distances(nearest, self.norms[chunk])
                self.gap[chunk] = torch.minimum(self.gap[chunk], squared)


def _next_block(gaps: _Gaps, most: int) -> Int[Tensor, " B"]:
    """Greedy picks among the active rows with the largest gaps, until another could be next."""
    if not len(gaps.active):  # only duplicates of selected rows are left
        return (gaps.gap == 0).nonzero().squeeze(1)[:most]
    own = gaps.gap[gaps.active]
    values, order = own.topk(min(CANDIDATES + 1, len(own)))
    limit = values[-1].item() if len(own) > CANDIDATES else gaps.level
    if values[0] == limit:  # more rows than candidates are equally far
        return gaps.active[own.argmax()][None]
    candidates = gaps.active[order[:CANDIDATES].sort().values]
    tried = gaps.points[candidates]
    products = _products(tried, gaps.norms[candidates, None], tried)
    between = _squared_distances(products, gaps.norms[candidates]).cpu().numpy()
    left = gaps.gap[candidates].cpu().numpy()
    chosen: list[int] = []
    while len(chosen) < most and left[best := int(left.argmax())] > limit:
        chosen.append(best)
        np.minimum(left, between[best], out=left)
        left[best] = -1
    full = len(chosen) // TILE * TILE
    return candidates[chosen[: full or None]]


def _products(
    a: Float[Tensor, "A d"], squared_norms: Float[Tensor, "A 1"], b: Float[Tensor, "B d"]
) -> Float[Tensor, "A B"]:
    """||a||^2 - 2 a.b: squared distances without ||b||^2, which is constant in a minimum over a."""
    # In full groups of 16 rows, products of copies are rounded alike, so that ties remain ties.
    full = torch.cat((b, b[:1].expand(-len(b) % 16, -1))) if len(b) % 16 else b
    return torch.addmm(squared_norms, a, full.T, alpha=-2)[:, : len(b)]


def _squared_distances(
    products: Float[Tensor, "*A B"], norms: Float[Tensor, " B"]
) -> Float[Tensor, "*A B"]:
    squared = products + norms
    # The rounding error of the products for two equal rows, whose distance must be exactly 0.
    noise = 32 * torch.finfo(norms.dtype).eps * norms
    return squared.where(squared > noise, 0)
