"""Instance features: K rows that summarise a scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lsfa_lib.features.geometry import direct_distances
from lsfa_lib.storage.files import InputError


def instance_features(
    rows: Float[Tensor, "R D"],
    counts: Float[Tensor, " R"],
    k: int,
    seed: int,
    iterations: int = 10,
) -> Float[Tensor, "k D"]:
    """G of a scan: the K centroids of its patch features, found by k-means.

    G_j = sum_{r in cluster j} counts_r rows_r / sum_{r in cluster j} counts_r

    Row r stands for `counts[r]` patches; with none it is ignored. K = 1 is the mean over patches.
    Gradients pass through the means, not through the choice of clusters. Raises InputError for a
    K below 1 or above the number of different features.
    """
    used = counts > 0
    rows, counts = rows[used], counts[used]
    if k < 1 or k > len(rows):
        raise _impossible(k, len(rows))
    if k == 1:
        return _means(rows, counts, torch.zeros_like(counts, dtype=torch.long), 1)
    return _means(rows, counts, _clusters(rows.detach(), counts, k, seed, iterations), k)


def _means(
    rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"], cluster: Int[Tensor, " R"], k: int
) -> Float[Tensor, "k D"]:
    members = F.one_hot(cluster, k) * counts[:, None]
    return (members / members.sum(0)).T.to(rows) @ rows


def _clusters(
    rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"], k: int, seed: int, iterations: int
) -> Int[Tensor, " R"]:
    """Cluster of each row after at most `iterations` rounds of Lloyd; every cluster has a row."""
    cluster = _assigned(rows, _first_centres(rows, counts, k, seed))
    for _ in range(iterations):
        before = cluster
        cluster = _assigned(rows, _means(rows, counts, before, k))
        if torch.equal(cluster, before):
            break
    return cluster


def _first_centres(
    rows: Float[Tensor, "R D"], counts: Float[Tensor, " R"], k: int, seed: int
) -> Float[Tensor, "k D"]:
    """K different rows, each drawn by its count times its squared distance to those before it.

    (k-means++, Arthur & Vassilvitskii 2007)
    """
    # Drawn on the CPU, so that a seed means the same clusters on every device.
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    odds = counts.double()
    gap = torch.full_like(rows[:, 0], torch.inf)
    while len(chosen) < k:
        if not bool(odds.any()):
            raise _impossible(k, len(chosen))
        chosen.append(int(torch.multinomial(odds.cpu(), 1, generator=generator)))
        gap = torch.minimum(gap, direct_distances(rows, rows[chosen[-1:]])[:, 0])
        odds = counts * gap.double().square()
    return rows[chosen]


def _assigned(rows: Float[Tensor, "R D"], centres: Float[Tensor, "k D"]) -> Int[Tensor, " R"]:
    """The closest centre of each row; an empty cluster gets the row farthest from its centre.

    Only rows that share a cluster are moved, so that filling one does not empty another.
    """
    gap, cluster = direct_distances(rows, centres).min(1)
    for empty in (torch.bincount(cluster, minlength=len(centres)) == 0).nonzero():
        shared = torch.bincount(cluster, minlength=len(centres))[cluster] > 1
        cluster[gap.masked_fill(~shared, -1).argmax()] = empty[0]
    return cluster


def _impossible(k: int, distinct: int) -> InputError:
    return InputError(
        f"K = {k} instance features exceed the {distinct} distinct patch features of a scan; "
        f"set K from 1 to {distinct}, or leave the scan out"
    )
