"""Points, their neighbours, and the sparse map that carries point groups to image patches.

Distances come from direct coordinate differences everywhere: the a² + b² - 2ab form in float32 is
wrong by the whole distance at 0.1 mm when coordinates are metres from a camera half a metre away.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from lsfa_lib.storage.files import InputError

# torch says so once a process of every CSR tensor; products with dense ones are all we ask of it.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

BOX_POINTS = 64
CANDIDATE_SHARE = 0.8
PICKS_A_ROUND = 256


@contextmanager
def _one_thread() -> Iterator[None]:
    """On arrays this small a second thread brings little, and costs tenfold on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Boxes:
    """Points in groups of neighbours, so that a new pick visits only the groups it can reach."""

    index: Int[Tensor, "B S"]
    xyz: Float[Tensor, "3 B S"]
    low: Float[Tensor, "3 B 1"]
    high: Float[Tensor, "3 B 1"]
    squared_gap: Float[Tensor, "B S"]
    """Squared distance of each point to the nearest pick; -1 for picks and padding. Updated."""


@_one_thread()
def farthest_points(points: Float[Tensor, "N 3"], n: int) -> Int[Tensor, " n"]:
    """Indices of `n` distinct points spread evenly: each is the farthest from those before it.

    Exact farthest point sampling as in Point-MAE: starts at index 0, ties go to the lowest index.
    All points take part, those near the origin too. Raises InputError when n is not in 1..N.

    Same picks as one at a time, many at once: points nearer to the picks than `CANDIDATE_SHARE` of
    the largest squared gap cannot be next until the others have dropped below it.
    """
    if not 1 <= n <= len(points):
        raise InputError(
            f"{n} farthest points were asked of {len(points)}; ask for 1 to {len(points)}"
        )
    picks = [0]
    boxes = _boxes(points)
    boxes.squared_gap[boxes.index == 0] = -1
    _close_gaps(boxes, points[:1])
    while len(picks) < n:
        new = _greedy_picks(points, boxes, min(n - len(picks), PICKS_A_ROUND))
        _close_gaps(boxes, points[new])
        picks += new
    return torch.tensor(picks, device=points.device)


def _boxes(points: Float[Tensor, "N 3"]) -> _Boxes:
    # The tree's leaves follow each other in space, so any run of its order is a compact box.
    order = cKDTree(points.cpu(), BOX_POINTS, compact_nodes=False, balanced_tree=False).indices
    padded = np.pad(order, (0, -len(order) % BOX_POINTS), mode="edge").reshape(-1, BOX_POINTS)
    index = torch.from_numpy(padded).to(points.device)
    xyz = points.T.contiguous()[:, index]
    low, high = xyz.aminmax(dim=2, keepdim=True)
    squared_gap = torch.full_like(xyz[0], torch.inf)
    squared_gap.view(-1)[len(points) :] = -1
    return _Boxes(index, xyz, low, high, squared_gap)


def _greedy_picks(points: Float[Tensor, "N 3"], boxes: _Boxes, most: int) -> list[int]:
    """The next picks, by trying only points that can be among them, lowest index first."""
    threshold = CANDIDATE_SHARE * boxes.squared_gap.max()
    slot = (boxes.squared_gap >= threshold).view(-1).nonzero().squeeze(1)
    index, order = boxes.index.view(-1)[slot].sort()
    slot = slot[order]
    xyz = points[index].T.contiguous().cpu().numpy()
    gap = boxes.squared_gap.view(-1)[slot].cpu().numpy()
    least = threshold.item()
    chosen: list[int] = []
    while len(chosen) < most and gap[best := int(gap.argmax())] >= least:
        chosen.append(best)
        square = xyz - xyz[:, best, None]
        square *= square
        np.minimum(gap, square[0] + square[1] + square[2], out=gap)
        gap[best] = -1
    boxes.squared_gap.view(-1)[slot[chosen]] = -1
    return index[chosen].tolist()


def _close_gaps(boxes: _Boxes, picks: Float[Tensor, "K 3"]) -> None:
    axes = list(zip(boxes.xyz, boxes.low, boxes.high, picks.T, strict=True))
    to_box = _squared(*(at.clamp(low, high) - at for _, low, high, at in axes))
    box, pick = (to_box < boxes.squared_gap.amax(1, keepdim=True)).nonzero(as_tuple=True)
    squared = _squared(*(xyz.index_select(0, box) - at[pick, None] for xyz, _, _, at in axes))
    boxes.squared_gap.scatter_reduce_(0, box[:, None].expand_as(squared), squared, "amin")


def _inverse_distances(
    points: Float[Tensor, "N 3"], centres: Float[Tensor, "G 3"]
) -> Float[Tensor, "N G"]:
    axes = zip(points.T[:, :, None], centres.T.contiguous(), strict=True)
    squared = _squared(*(point - centre for point, centre in axes))
    # A floor far below any length keeps 1 / 0 finite and still outweighs all others.
    return squared.clamp_min_(1e-30).rsqrt_()


def _squared(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return x.square_().add_(y.square_()).add_(z.square_())


def nearest_points(
    queries: Float[Tensor, "Q 3"], points: Float[Tensor, "N 3"], k: int
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """Distances and indices of the `k` points closest to each query, closest first.

    Raises InputError when k is not in 1..N.
    """
    if not 1 <= k <= len(points):
        raise InputError(
            f"{k} neighbours were asked of {len(points)} points; ask for 1 to {len(points)}"
        )
    if points.device.type != "cpu":
        return _nearest_by_chunks(queries, points, k)
    distances, indices = cKDTree(points.double()).query(
        queries, np.arange(1, k + 1), workers=torch.get_num_threads()
    )
    return torch.from_numpy(distances).to(points.dtype), torch.from_numpy(indices)


def _nearest_by_chunks(
    queries: Float[Tensor, "Q 3"], points: Float[Tensor, "N 3"], k: int, chunk: int = 1024
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    closest = [
        _direct_distances(some, points).topk(k, largest=False)
        for some in torch.split(queries, chunk)
    ]
    return torch.cat([c.values for c in closest]), torch.cat([c.indices for c in closest])


def interpolation_weights(
    points: Float[Tensor, "N 3"], centres: Float[Tensor, "G 3"], neighbours: int
) -> tuple[Int[Tensor, "N k"], Float[Tensor, "N k"]]:
    """Indices of the centres each point is interpolated from, and weights that sum to 1.

    f_p = sum_i a_i A_i                                                         (LSFA Eq. 1)

    a_i is proportional to 1 / ||c_i - p|| over all centres with `neighbours` = 0 (a point on a
    centre takes that centre alone), else to 1 / (||c_i - p||^2 + 1e-8 m^2) over the nearest few.
    """
    if neighbours:
        distances, indices = nearest_points(points, centres, min(neighbours, len(centres)))
        weights = 1 / (distances.square() + 1e-8)
    else:
        weights = _inverse_distances(points, centres)
        indices = torch.arange(len(centres), device=centres.device).expand_as(weights)
    return indices, weights.div_(weights.sum(1, keepdim=True))


@_one_thread()
def patch_weights(
    xyz: Float[Tensor, "3 S S"],
    valid: Bool[Tensor, "S S"],
    centres: Float[Tensor, "G 3"],
    patch_px: int,
    neighbours: int,
) -> Float[Tensor, "P G"]:
    """Sparse CSR matrix that turns features of point groups into features of image patches.

    Patch features are `weights @ group_features`: the mean, over the valid pixels of a patch of
    `patch_px` x `patch_px`, of their interpolated features (LSFA Eq. 1). Rows sum to 1; the row of
    a patch without a valid pixel is empty. Raises InputError when patches do not tile the image.
    """
    side, left_over = divmod(valid.shape[0], patch_px)
    if left_over:
        raise InputError(
            f"patches of {patch_px} px do not tile {valid.shape[0]} px; change patch_px or size"
        )
    if not neighbours:
        return _all_centre_weights(xyz, valid, centres, patch_px)
    patch_row = torch.arange(side, device=valid.device).repeat_interleave(patch_px)
    patch = (side * patch_row[:, None] + patch_row)[valid]
    share = 1 / torch.bincount(patch, minlength=side * side)[patch]
    indices, weights = interpolation_weights(xyz[:, valid].T, centres, neighbours)
    return _summed(patch, indices, weights * share[:, None], (side * side, len(centres)))


def spread(weights: Float[Tensor, "P T"], tokens: Float[Tensor, "T D"]) -> Float[Tensor, "P D"]:
    """Patch features `weights @ tokens`, as a dense product where every row is full or empty."""
    filled = weights.crow_indices().diff() > 0
    if weights.values().numel() != int(filled.sum()) * len(tokens):
        return weights @ tokens
    patches = tokens.new_zeros(len(filled), tokens.shape[1])
    patches[filled] = weights.values().view(-1, len(tokens)) @ tokens
    return patches


@_one_thread()
def released_patch_weights(
    xyz: Float[Tensor, "3 S S"],
    valid: Bool[Tensor, "S S"],
    centres: Float[Tensor, "G 3"],
    patch_px: int,
    neighbours: int,
) -> Float[Tensor, "P G"]:
    """The sparse matrix of the public code: invalid pixels count as zero features.

    Interpolated features lie on the image with zeros where not valid, then AvgPool 3/1 without
    padding and adaptive average pooling to the grid: rows at the border of a part sum to less
    than 1, which dilutes its edges.
    """
    size = valid.shape[0]
    identity = torch.eye(size, device=xyz.device, dtype=xyz.dtype)
    smooth = functional.avg_pool1d(identity, 3, stride=1)
    along = functional.adaptive_avg_pool1d(smooth, size // patch_px).T
    row, line = along.nonzero(as_tuple=True)
    pixel = valid.new_zeros(valid.shape, dtype=torch.long)
    pixel[valid] = torch.arange(int(valid.sum()), device=valid.device)
    entries = valid[line[:, None], line]
    patch = (row[:, None] * (size // patch_px) + row)[entries]
    point = pixel[line[:, None], line][entries]
    share = (along[row, line][:, None] * along[row, line])[entries]
    indices, weights = interpolation_weights(xyz[:, valid].T, centres, neighbours)
    shape = ((size // patch_px) ** 2, len(centres))
    return _summed(patch, indices[point], weights[point] * share[:, None], shape)


def _summed(
    patch: Int[Tensor, " E"],
    centre: Int[Tensor, "E k"],
    weight: Float[Tensor, "E k"],
    shape: tuple[int, int],
) -> Float[Tensor, "P G"]:
    place = torch.stack([patch[:, None].expand_as(centre), centre]).flatten(1)
    entries = torch.sparse_coo_tensor(
        place, weight.flatten(), shape, check_invariants=False
    ).coalesce()
    rows, columns = entries.indices()
    return _csr(torch.bincount(rows, minlength=shape[0]), columns, entries.values(), shape[1])


def _all_centre_weights(
    xyz: Float[Tensor, "3 S S"],
    valid: Bool[Tensor, "S S"],
    centres: Float[Tensor, "G 3"],
    patch_px: int,
    chunk: int = 8,
) -> Float[Tensor, "P G"]:
    """Eq. 1 over every centre, `chunk` patches at a time: pixels x centres never exist at once."""
    by_patch = [
        functional.unfold(image[None], patch_px, stride=patch_px).view(len(image), patch_px**2, -1)
        for image in (xyz, valid[None].to(xyz.dtype))
    ]
    pixels, mask = by_patch[0].permute(2, 1, 0), by_patch[1][0].T
    filled = mask.any(1)
    share = (mask / mask.sum(1, keepdim=True))[filled]
    rows = [xyz.new_zeros(0, len(centres))]
    chunks = zip(torch.split(pixels[filled], chunk), torch.split(share, chunk), strict=True)
    for some, part in chunks:
        inverse = _inverse_distances(some.reshape(-1, 3), centres)
        inverse = inverse.view(*part.shape, len(centres))
        rows.append(((part / inverse.sum(2))[:, None] @ inverse)[:, 0])
    columns = torch.arange(len(centres), device=xyz.device).repeat(len(share))
    return _csr(filled * len(centres), columns, torch.cat(rows).flatten(), len(centres))


def _csr(
    counts: Int[Tensor, " P"],
    columns: Int[Tensor, " E"],
    values: Float[Tensor, " E"],
    width: int,
) -> Float[Tensor, "P G"]:
    ends = functional.pad(counts.cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(
        ends, columns, values, (len(counts), width), check_invariants=False
    )


def _direct_distances(
    queries: Float[Tensor, "Q 3"], points: Float[Tensor, "N 3"]
) -> Float[Tensor, "Q N"]:
    return torch.cdist(queries, points, compute_mode="donot_use_mm_for_euclid_dist")
