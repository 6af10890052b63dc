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
    return torch.cat(list(progress(blocks, label) if label else blocks))


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
    """The greedy picks in order, in blocks of as many as the candidates' distances determine."""
    norms = points.square().sum(1)
    gap = torch.full_like(norms, torch.inf)  # squared distance to the nearest pick, -1 for picks
    block = first
    while True:
        yield block
        n_keep -= len(block)
        if not n_keep:
            return
        picked, bias = points[block], norms[block, None]
        for start in range(0, len(points), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            products = _products(picked, bias, points[chunk])
            nearest = _squared_distances(products.amin(0), norms[chunk])
            gap[chunk] = torch.minimum(gap[chunk], nearest)
        gap[block] = -1
        block = _next_block(points, norms, gap, n_keep)


def _next_block(
    points: Float[Tensor, "N d"], norms: Float[Tensor, " N"], gap: Float[Tensor, " N"], most: int
) -> Int[Tensor, " B"]:
    """Greedy picks among the candidates with the largest gaps, until another row could be next."""
    values, order = gap.topk(min(CANDIDATES + 1, len(gap)))
    limit = values[-1].item() if len(gap) > CANDIDATES else -1.0
    if values[0] == 0:  # only duplicates of selected rows are left
        return (gap == 0).nonzero().squeeze(1)[:most]
    if values[0] == limit:  # more rows than candidates are equally far
        return gap.argmax()[None]
    candidates = order[:CANDIDATES].sort().values
    tried = points[candidates]
    products = _products(tried, norms[candidates, None], tried)
    between = _squared_distances(products, norms[candidates]).cpu().numpy()
    left = gap[candidates].cpu().numpy()
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
    return torch.addmm(squared_norms, a, b.T, alpha=-2)


def _squared_distances(
    products: Float[Tensor, "*A B"], norms: Float[Tensor, " B"]
) -> Float[Tensor, "*A B"]:
    squared = products + norms
    # The rounding error of the products for two equal rows, whose distance must be exactly 0.
    noise = 32 * torch.finfo(norms.dtype).eps * norms
    return squared.where(squared > noise, 0)
