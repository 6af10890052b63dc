"""FPFH patches against a brute-force FPFH, a closed form and loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lsfa_lib.config import PointEncoderConfig
from lsfa_lib.features.fpfh import fpfh_patches, point_histograms
from lsfa_lib.features.geometry import patch_of_pixel

CONFIG = PointEncoderConfig(
    model="fpfh",
    normal_radius_m=0.012,
    normal_max_neighbours=200,
    fpfh_radius_m=0.015,
    fpfh_max_neighbours=200,
)


def scan(size: int, noise: float = 1e-5) -> tuple[torch.Tensor, torch.Tensor]:
    """A bumpy disc 8 cm wide, 0.6 m in front of the camera."""
    axis = 0.1 * ((torch.arange(size) + 0.5) / size - 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    z = 0.6 - 0.01 * torch.cos(60 * x) * torch.cos(45 * y + 0.3)
    valid = x**2 + y**2 < 0.04**2
    shake = noise * torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    return (torch.stack([x, y, z]) + shake) * valid, valid


def as_points(xyz: torch.Tensor, valid: torch.Tensor) -> np.ndarray:
    return xyz[:, valid].T.double().numpy()


def brute_normals(points: np.ndarray, radius: float) -> np.ndarray:
    """Smallest principal direction of the points within `radius`, towards the origin."""
    normals = np.empty_like(points)
    for i, point in enumerate(points):
        near = points[np.linalg.norm(points - point, axis=1) < radius]
        normals[i] = np.linalg.svd(near - near.mean(0))[2][2]
        normals[i] *= -np.sign(normals[i] @ point)
    return normals


def pair_bins(p: np.ndarray, n: np.ndarray, q: np.ndarray, m: np.ndarray) -> list[int]:
    """Bins of the three angles of a pair (Rusu 2009, Eq. 1).

    The source is the point whose normal is closer to the line between them.
    """
    line = (q - p) / np.linalg.norm(q - p)
    if abs(n @ line) < abs(m @ line):
        n, m, line = m, n, -line
    v = np.cross(line, n)
    v /= np.linalg.norm(v)
    w = np.cross(n, v)
    theta, alpha, phi = np.arctan2(w @ m, n @ m), v @ m, n @ line
    shares = [(theta + np.pi) / (2 * np.pi), (alpha + 1) / 2, (phi + 1) / 2]
    return [11 * k + min(10, int(11 * share)) for k, share in enumerate(shares)]


def brute_fpfh(points: np.ndarray, normals: np.ndarray, radius: float) -> np.ndarray:
    gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = [np.flatnonzero((row < radius) & (row > 0)) for row in gaps]
    simple = np.zeros((len(points), 33))
    for i, others in enumerate(near):
        for j in others:
            simple[i, pair_bins(points[i], normals[i], points[j], normals[j])] += 100 / len(others)
    full = simple.copy()
    for i, others in enumerate(near):
        weighted = (simple[others] / gaps[i, others, None] ** 2).sum(0)
        for part in (slice(0, 11), slice(11, 22), slice(22, 33)):
            full[i, part] += 100 * weighted[part] / weighted[part].sum()
    return full


def test_histograms_equal_brute_force():
    points = as_points(*scan(20))
    ours, nearest = point_histograms(points, CONFIG)
    expected = brute_fpfh(points, brute_normals(points, 0.012), 0.015)
    assert np.array_equal(nearest, np.arange(len(points)))
    # A pair at the edge of a bin may fall on either side of it.
    off = np.abs(ours - expected).sum(1)
    assert np.median(off) < 1e-6
    assert (off < 1e-6).mean() > 0.9


def test_a_plane_fills_the_middle_bins_only():
    axis = torch.linspace(-0.03, 0.03, 24)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    xyz = torch.stack([x, y, 0.5 + 0.3 * x - 0.2 * y])
    tokens, _ = fpfh_patches(xyz, torch.ones(24, 24, dtype=torch.bool), CONFIG, 4)
    expected = torch.zeros(36, 33)
    expected[:, [5, 16, 27]] = 200.0
    torch.testing.assert_close(tokens, expected, atol=1e-3, rtol=0)


def test_an_edge_differs_from_the_plane_beside_it():
    axis = torch.linspace(-0.03, 0.03, 24)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    roof = torch.stack([x, y, 0.5 + 0.8 * x.abs()])
    tokens, _ = fpfh_patches(roof, torch.ones(24, 24, dtype=torch.bool), CONFIG, 4)
    plane = torch.zeros(33)
    plane[[5, 16, 27]] = 200.0
    far, ridge = tokens.view(6, 6, 33)[2, 0], tokens.view(6, 6, 33)[2, 2]
    assert (far - plane).abs().sum() < 5
    assert (ridge - plane).abs().sum() > 100


def test_histograms_do_not_change_under_rotation_about_the_camera():
    points = as_points(*scan(32))
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    turn *= np.linalg.det(turn)
    still, turned = (point_histograms(p, CONFIG)[0] for p in (points, points @ turn.T))
    assert (np.abs(still - turned).sum(1) < 1e-6).mean() > 0.95


def test_tokens_are_means_over_the_patches_and_weights_put_them_back():
    xyz, valid = scan(32)
    given = xyz.clone()
    tokens, weights = fpfh_patches(xyz, valid, CONFIG, 4)
    histograms, _ = point_histograms(as_points(xyz, valid), CONFIG)
    image = torch.zeros(32, 32, 33, dtype=torch.float64)
    image[valid] = torch.tensor(histograms)
    patches, rows, filled = weights @ tokens, weights.to_dense().sum(1), 0
    for patch in range(64):
        window = np.s_[patch // 8 * 4 : patch // 8 * 4 + 4, patch % 8 * 4 : patch % 8 * 4 + 4]
        inside = valid[window]
        filled += bool(inside.any())
        assert rows[patch] == float(inside.any())
        expected = image[window][inside].mean(0) if inside.any() else torch.zeros(33)
        torch.testing.assert_close(patches[patch], expected.float(), atol=1e-3, rtol=0)
    assert tokens.shape == (filled, 33)
    assert weights.shape == (64, filled)
    assert torch.equal(xyz, given)


def test_every_valid_patch_has_a_row_where_points_are_sparser_than_patches():
    xyz, valid = scan(32)
    sparse = replace(CONFIG, spacing_m=0.02, normal_radius_m=0.05, fpfh_radius_m=0.06)
    histograms, nearest = point_histograms(as_points(xyz, valid), sparse)
    tokens, weights = fpfh_patches(xyz, valid, sparse, 2)
    rows = weights.to_dense().sum(1)
    assert len(histograms) < len(tokens) / 4
    assert set(rows.tolist()) == {0.0, 1.0}
    assert torch.equal(rows == 1, valid.view(16, 2, 16, 2).any(3).any(1).flatten())
    # A patch whose pixels are nearest to one point has exactly that point's histogram.
    patch = patch_of_pixel(valid, 2).numpy()
    spread = (weights @ tokens).numpy()
    for index in np.unique(patch):
        expected = histograms[nearest[patch == index]].mean(0)
        np.testing.assert_allclose(spread[index], expected, atol=1e-3)


def test_spacing_gives_the_same_features_at_twice_the_image_size():
    def at(size: int, spacing: float) -> torch.Tensor:
        config = replace(CONFIG, fpfh_max_neighbours=60, spacing_m=spacing)
        tokens, weights = fpfh_patches(*scan(size), config, size // 12)
        return weights @ tokens

    def gap(spacing: float) -> float:
        small, large = at(48, spacing), at(96, spacing)
        both = (small.sum(1) > 0) & (large.sum(1) > 0)
        return float((small - large)[both].abs().sum(1).mean())

    # Out of the 1200 that two histograms without a common bin differ by.
    assert gap(0.004) < 0.5 * gap(0.0)


def test_the_same_scan_gives_the_same_bits():
    first, second = (fpfh_patches(*scan(48), CONFIG, 4)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_nearly_empty_scans_have_finite_features(count):
    xyz, valid = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
    for k in range(count):
        valid[4 * k, 3] = True
        xyz[:, 4 * k, 3] = torch.tensor([0.001 * k, 0.0, 0.5])
    tokens, weights = fpfh_patches(xyz, valid, CONFIG, 4)
    assert tokens.shape == (count, 33)
    assert weights.shape == (4, count)
    assert tokens.isfinite().all()
    assert weights.to_dense().sum() == count
