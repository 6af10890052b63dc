"""Neighbours of points, and the sparse matrices that carry point features to image patches.

Distances come from direct coordinate differences everywhere: the a² + b² - 2ab form in float32 is
wrong by the full distance at 0.1 mm when coordinates are metres from a camera half a metre away.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from lsfa_lib.storage.files import InputError

# torch warns once per process; products with dense matrices, all we need, are supported.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@contextmanager
def one_thread() -> Iterator[None]:
    """On arrays this small a second thread saves little, and costs tenfold on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def squared_length(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x² + y² + z², computed in place."""
    return x.square_().add_(y.square_()).add_(z.square_())


def direct_distances(a: Float[Tensor, "N D"], b: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """Euclidean distances from coordinate differences: equal rows are at distance exactly 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def nearest_points(
    queries: Float[Tensor, "Q 3"], points: Float[Tensor, "N 3"], k: int
) -> tuple[Float[Tensor, "Q k"], Int[Tensor, "Q k"]]:
    """Distances and indices of the `k` points closest to each query, closest first.

    Raises InputError when k is not in 1..N.
    """
    if not 1 <= k <= len(points):
        raise InputError(
            f"cannot find {k} neighbours among {len(points)} points; choose 1 to {len(points)}"
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
        direct_distances(some, points).topk(k, largest=False)
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


def _inverse_distances(
    points: Float[Tensor, "N 3"], centres: Float[Tensor, "G 3"]
) -> Float[Tensor, "N G"]:
    axes = zip(points.T[:, :, None], centres.T.contiguous(), strict=True)
    squared = squared_length(*(point - centre for point, centre in axes))
    # A floor far below any length keeps 1 / 0 finite and still outweighs all others.
    return squared.clamp_min_(1e-30).rsqrt_()


@one_thread()
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
    patch = patch_of_pixel(valid, patch_px)
    share = 1 / torch.bincount(patch, minlength=side * side)[patch]
    indices, weights = interpolation_weights(xyz[:, valid].T, centres, neighbours)
    return _summed(patch, indices, weights * share[:, None], (side * side, len(centres)))


@one_thread()
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
    size, side = valid.shape[0], valid.shape[0] // patch_px
    identity = torch.eye(size, device=xyz.device, dtype=xyz.dtype)
    smooth = functional.avg_pool1d(identity, 3, stride=1)
    along = functional.adaptive_avg_pool1d(smooth, side).T
    row, line = along.nonzero(as_tuple=True)
    pixel = valid.new_zeros(valid.shape, dtype=torch.long)
    pixel[valid] = torch.arange(int(valid.sum()), device=valid.device)
    entries = valid[line[:, None], line]
    patch = (row[:, None] * side + row)[entries]
    point = pixel[line[:, None], line][entries]
    share = (along[row, line][:, None] * along[row, line])[entries]
    indices, weights = interpolation_weights(xyz[:, valid].T, centres, neighbours)
    shape = (side * side, len(centres))
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
    return csr_matrix(torch.bincount(rows, minlength=shape[0]), columns, entries.values(), shape[1])


def _all_centre_weights(
    xyz: Float[Tensor, "3 S S"],
    valid: Bool[Tensor, "S S"],
    centres: Float[Tensor, "G 3"],
    patch_px: int,
    chunk: int = 8,
) -> Float[Tensor, "P G"]:
    """Eq. 1 over every centre, `chunk` patches at a time: pixels x centres never exist at once."""
    pixels, mask = (
        functional.unfold(image[None], patch_px, stride=patch_px).view(len(image), patch_px**2, -1)
        for image in (xyz, valid[None].to(xyz.dtype))
    )
    pixels, mask = pixels.permute(2, 1, 0), mask[0].T
    filled = mask.any(1)
    share = (mask / mask.sum(1, keepdim=True))[filled]
    rows = [xyz.new_zeros(0, len(centres))]
    chunks = zip(torch.split(pixels[filled], chunk), torch.split(share, chunk), strict=True)
    for some, part in chunks:
        inverse = _inverse_distances(some.reshape(-1, 3), centres)
        inverse = inverse.view(*part.shape, len(centres))
        rows.append(((part / inverse.sum(2))[:, None] @ inverse)[:, 0])
    columns = torch.arange(len(centres), device=xyz.device).repeat(len(share))
    return csr_matrix(filled * len(centres), columns, torch.cat(rows).flatten(), len(centres))


def patch_of_pixel(valid: Bool[Tensor, "S S"], patch_px: int) -> Int[Tensor, " N"]:
    """Row-major index of the patch each of the N valid pixels lies in."""
    rows, columns = (axis // patch_px for axis in valid.nonzero(as_tuple=True))
    return rows * (valid.shape[1] // patch_px) + columns


def csr_matrix(
    counts: Int[Tensor, " P"],
    columns: Int[Tensor, " E"],
    values: Float[Tensor, " E"],
    width: int,
) -> Float[Tensor, "P G"]:
    """torch.sparse_csr of `width` columns; row p holds the next `counts[p]` of the E entries."""
    ends = functional.pad(counts.cumsum(0), (1, 0))
    return torch.sparse_csr_tensor(
        ends, columns, values, (len(counts), width), check_invariants=False
    )


def copying_weights(
    valid: Bool[Tensor, " P"], index: Int[Tensor, " V"], rows: Float[Tensor, "R D"]
) -> Float[Tensor, "P R"]:
    """The sparse weights by which each of the V valid patches copies row `index` of `rows`."""
    return csr_matrix(valid.long(), index, torch.ones_like(index, dtype=rows.dtype), len(rows))


def rows_at(rows: Float[Tensor, "N D"], index: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
    """`rows[index]`, with a gradient that is summed in the same order each time.

    On a CPU that of `rows[index]` is not, on a GPU that of `index_select`.
    """
    return rows.index_select(0, index) if rows.device.type == "cpu" else rows[index]


def spread(weights: Float[Tensor, "P T"], tokens: Float[Tensor, "T D"]) -> Float[Tensor, "P D"]:
    """Patch features `weights @ tokens`, as a dense product where every row is full or empty."""
    filled = weights.crow_indices().diff() > 0
    if weights.values().numel() != int(filled.sum()) * len(tokens):
        return weights @ tokens
    patches = tokens.new_zeros(len(filled), tokens.shape[1])
    patches[filled] = weights.values().view(-1, len(tokens)) @ tokens
    return patches
