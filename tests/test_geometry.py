from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional

from lsfa_lib.features import geometry, sampling
from lsfa_lib.features.geometry import (
    interpolation_weights,
    nearest_points,
    patch_weights,
    released_patch_weights,
    spread,
)
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.storage.files import InputError

FIXTURE = Path(__file__).parents[2] / "shared" / "fixtures" / "point_mae_case.npz"


def cloud(n: int, seed: int = 0, offset: float = 0.5) -> torch.Tensor:
    """A curved patch 10 cm wide, `offset` metres in front of the camera."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.05, 0.05, (2, n))
    z = offset + 0.02 * np.cos(40 * x) * np.sin(50 * y)
    return torch.from_numpy(np.stack([x, y, z], 1).astype(np.float32))


def one_at_a_time(points: torch.Tensor, n: int) -> list[int]:
    xyz, picks = points.numpy(), [0]
    gap = np.full(len(xyz), np.inf, dtype=xyz.dtype)
    while len(picks) < n:
        d = xyz - xyz[picks[-1]]
        gap = np.minimum(gap, d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1] + d[:, 2] * d[:, 2])
        gap[picks] = -1
        picks.append(int(gap.argmax()))
    return picks


@pytest.mark.parametrize("n_points", [1, 2, 63, 64, 65, 1000, 5000])
def test_farthest_points_equal_the_plain_loop(n_points):
    points = cloud(n_points)
    n = min(n_points, 400)
    assert farthest_points(points, n).tolist() == one_at_a_time(points, n)


def test_farthest_points_break_ties_by_the_lowest_index():
    side = torch.arange(20.0)
    lattice = torch.stack(torch.meshgrid(side, side, side[:2], indexing="ij"), -1).reshape(-1, 3)
    assert farthest_points(lattice, 700).tolist() == one_at_a_time(lattice, 700)


def test_farthest_points_are_distinct_even_among_duplicates():
    points = cloud(40).repeat(5, 1)
    picks = farthest_points(points, 200).tolist()
    assert picks == one_at_a_time(points, 200)
    assert sorted(picks) == list(range(200))
    assert sorted(picks[:40]) == list(range(40))


def test_farthest_points_do_not_depend_on_the_round_size(monkeypatch):
    points = cloud(3000)
    expected = farthest_points(points, 300)
    monkeypatch.setattr(sampling, "PICKS_PER_ROUND", 3)
    monkeypatch.setattr(sampling, "BOX_POINTS", 7)
    assert torch.equal(farthest_points(points, 300), expected)


def test_defect_16_points_near_the_origin_are_sampled():
    # The public CUDA kernel skips points with a squared norm of at most 1e-3.
    points = torch.tensor([[1.0, 0, 0], [1.1, 0, 0], [0.001, 0, 0], [1.2, 0, 0]])
    assert farthest_points(points, 2).tolist() == [0, 2]
    near = cloud(500, offset=0.0) * 0.1
    assert (near.square().sum(1) < 1e-3).all()
    assert farthest_points(near, 50).tolist() == one_at_a_time(near, 50)


@pytest.mark.skipif(not FIXTURE.exists(), reason=f"no reference case at {FIXTURE}")
def test_farthest_points_equal_the_point_mae_reference():
    case = np.load(FIXTURE)
    points = torch.from_numpy(case["points"])
    assert farthest_points(points, 48).tolist() == case["centre_index"][0].tolist()


def test_farthest_points_leave_threads_and_input_alone():
    points, threads = cloud(300), torch.get_num_threads()
    before = points.clone()
    farthest_points(points, 20)
    assert torch.equal(points, before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("n", [0, 11])
def test_farthest_points_refuse_an_impossible_number(n):
    with pytest.raises(InputError, match=rf"select {n} farthest points from 10; choose 1 to 10"):
        farthest_points(cloud(10), n)


def all_neighbours(queries, points, k):
    d = np.linalg.norm(queries.numpy()[:, None] - points.double().numpy(), axis=-1)
    return np.sort(d, 1)[:, :k], np.argsort(d, 1, kind="stable")[:, :k]


@pytest.mark.parametrize("k", [1, 5, 300])
def test_nearest_points_equal_all_distances_sorted(k):
    points, queries = cloud(300), cloud(40, seed=1)
    distances, indices = nearest_points(queries, points, k)
    expected, order = all_neighbours(queries, points, k)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-5)
    assert (indices.numpy() == order).all()
    assert distances.dtype == torch.float32


@pytest.mark.parametrize("n_queries", [1, 15, 16, 17, 33])
def test_chunks_of_other_devices_equal_the_tree(n_queries):
    points, queries = cloud(200), cloud(n_queries, seed=2)
    ours = geometry._nearest_by_chunks(queries, points, 9, chunk=16)
    tree = nearest_points(queries, points, 9)
    torch.testing.assert_close(ours[0], tree[0])
    assert torch.equal(ours[1], tree[1])


@pytest.mark.parametrize("search", [nearest_points, geometry._nearest_by_chunks])
def test_defect_11_tenths_of_a_millimetre_survive_a_metric_offset(search):
    steps = torch.arange(50) * 1e-4
    points = torch.stack([0.5 + steps, torch.full((50,), 0.5), torch.full((50,), 0.5)], 1)
    distances, indices = search(points, points, 2)
    assert indices[:, 0].tolist() == list(range(50))
    torch.testing.assert_close(distances[:, 1], torch.full((50,), 1e-4), rtol=2e-3, atol=0)
    # The expansion the public code uses has nothing left of these 0.1 mm.
    norms = points.square().sum(1)
    expanded = (norms[:, None] + norms - 2 * points @ points.T).clamp_min(0).sqrt()
    assert (expanded.diagonal(1) - 1e-4).abs().max() > 5e-5


def test_nearest_points_refuse_more_neighbours_than_points():
    with pytest.raises(InputError, match="cannot find 4 neighbours among 3 points"):
        nearest_points(cloud(5), cloud(3), 4)


def test_three_neighbours_weigh_by_inverse_squares():
    centres = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [0.03, 0, 0], [1.0, 0, 0]])
    indices, weights = interpolation_weights(torch.tensor([[0.002, 0, 0]]), centres, 3)
    inverse = 1 / (np.array([0.002, 0.008, 0.028]) ** 2 + 1e-8)
    assert indices.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(weights[0].numpy(), inverse / inverse.sum(), rtol=1e-5)


def test_all_centres_weigh_by_inverse_distance():
    points, centres = cloud(30, seed=3), cloud(8, seed=4)
    indices, weights = interpolation_weights(points, centres, 0)
    inverse = 1 / np.linalg.norm(
        points.double().numpy()[:, None] - centres.double().numpy(), axis=-1
    )
    np.testing.assert_allclose(weights, inverse / inverse.sum(1, keepdims=True), rtol=1e-4)
    assert (indices == torch.arange(8)).all()


def test_a_point_on_a_centre_takes_that_centre_alone():
    centres = cloud(8)
    _, weights = interpolation_weights(centres, centres, 0)
    torch.testing.assert_close(weights, torch.eye(8), rtol=0, atol=1e-7)


def test_fewer_centres_than_neighbours_are_all_used():
    _, weights = interpolation_weights(cloud(5), cloud(2, seed=1), 3)
    assert weights.shape == (5, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))


def scene(size: int, seed: int = 0):
    """An organised scan with a hole, missing pixels and empty patches."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-0.05, 0.05, size), np.linspace(-0.05, 0.05, size))
    valid = (x**2 + y**2 < 0.04**2) & (rng.random(x.shape) > 0.2)
    xyz = np.stack([x, y, 0.5 + 0.1 * x * y + rng.normal(0, 1e-4, x.shape)]) * valid
    return torch.from_numpy(xyz.astype(np.float32)), torch.from_numpy(valid)


def interpolated_image(xyz, valid, centres, features, neighbours):
    image = np.zeros((*valid.shape, features.shape[1]))
    for row, column in zip(*np.nonzero(valid.numpy()), strict=True):
        d = np.linalg.norm(xyz[:, row, column].double().numpy() - centres.double().numpy(), axis=1)
        weight = 1 / (d**2 + 1e-8) if neighbours else 1 / d
        if neighbours:
            weight[np.argsort(d)[neighbours:]] = 0
        image[row, column] = weight / weight.sum() @ features
    return image


@pytest.mark.parametrize(("neighbours", "patch_px"), [(3, 4), (3, 3), (1, 4), (0, 4), (0, 3)])
def test_patch_weights_equal_interpolating_every_pixel(neighbours, patch_px):
    xyz, valid = scene(24)
    centres = xyz[:, valid].T[::19] + 1e-3
    features = np.random.default_rng(1).normal(size=(len(centres), 5))
    image = interpolated_image(xyz, valid, centres, features, neighbours)
    side = 24 // patch_px
    expected = np.zeros((side * side, 5))
    for patch in range(side * side):
        rows = slice(patch // side * patch_px, (patch // side + 1) * patch_px)
        columns = slice(patch % side * patch_px, (patch % side + 1) * patch_px)
        pixels = image[rows, columns][valid[rows, columns].numpy()]
        expected[patch] = pixels.mean(0) if len(pixels) else 0
    weights = patch_weights(xyz, valid, centres, patch_px, neighbours)
    assert weights.layout == torch.sparse_csr
    ours = weights @ torch.from_numpy(features).float()
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("neighbours", [0, 3])
def test_rows_of_patch_weights_sum_to_one_where_the_patch_has_a_point(neighbours):
    xyz, valid = scene(32)
    weights = patch_weights(xyz, valid, xyz[:, valid].T[::31].contiguous(), 4, neighbours)
    has_point = functional.max_pool2d(valid[None].float(), 4).flatten()
    torch.testing.assert_close(weights.to_dense().sum(1), has_point)
    stored = weights.crow_indices().diff() > 0
    assert torch.equal(stored, has_point.bool())
    assert 0 < stored.sum() < len(stored)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_all_centre_weights_do_not_depend_on_the_chunk(chunk):
    xyz, valid = scene(24)
    centres = xyz[:, valid].T[::40].contiguous()
    ours = geometry._all_centre_weights(xyz, valid, centres, 4, chunk=chunk)
    torch.testing.assert_close(ours.to_dense(), patch_weights(xyz, valid, centres, 4, 0).to_dense())


@pytest.mark.parametrize("neighbours", [0, 1])
def test_spread_is_the_plain_product_of_full_and_of_sparse_weights(neighbours):
    xyz, valid = scene(24)
    centres = xyz[:, valid].T[::9].contiguous()
    tokens = torch.randn(len(centres), 7, generator=torch.Generator().manual_seed(0))
    weights = patch_weights(xyz, valid, centres, 4, neighbours)
    expected = weights.to_dense().double() @ tokens.double()
    torch.testing.assert_close(spread(weights, tokens), expected.float())


@pytest.mark.parametrize("neighbours", [0, 3])
def test_a_scan_without_points_gives_empty_rows(neighbours):
    xyz, valid = torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    assert patch_weights(xyz, valid, cloud(5), 4, neighbours).values().numel() == 0


def test_patch_weights_refuse_patches_that_do_not_tile():
    xyz, valid = scene(30)
    with pytest.raises(InputError, match="patches of 4 px do not tile 30 px"):
        patch_weights(xyz, valid, cloud(5), 4, 3)


def test_released_weights_equal_the_pooling_of_the_zero_filled_image():
    xyz, valid = scene(24)
    centres = xyz[:, valid].T[::19].contiguous()
    features = torch.randn(len(centres), 5, generator=torch.Generator().manual_seed(0))
    image = torch.from_numpy(interpolated_image(xyz, valid, centres, features.numpy(), 3))
    smooth = functional.avg_pool2d(image.permute(2, 0, 1)[None], 3, stride=1)
    expected = functional.adaptive_avg_pool2d(smooth, 6)[0].flatten(1).T
    ours = released_patch_weights(xyz, valid, centres, 4, 3) @ features
    torch.testing.assert_close(ours, expected.float(), rtol=0, atol=2e-5)
    edge = released_patch_weights(xyz, valid, centres, 4, 3).to_dense().sum(1)
    assert ((edge > 0.01) & (edge < 0.9)).any()


def test_neighbours_agree_with_an_independent_library():
    points, queries = cloud(2000), cloud(100, seed=5)
    theirs = NearestNeighbors(n_neighbors=64, algorithm="brute").fit(points.double().numpy())
    expected, _ = theirs.kneighbors(queries.double().numpy())
    ours, _ = nearest_points(queries, points, 64)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4)
