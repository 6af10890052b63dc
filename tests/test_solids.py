"""Solids against brute force, closed forms, and what a distance must not do: jump a surface."""

import numpy as np
import pytest

from lsfa_lib.pretraining.families import FAMILIES, rotation
from lsfa_lib.pretraining.shapes import Mark, scanned, shape, with_mark
from lsfa_lib.pretraining.solids import (
    Camera,
    blended,
    box,
    capsule,
    cone,
    ellipsoid,
    normals,
    placed,
    prism,
    rough,
    seen,
    slab,
    torus,
    union,
    without,
)

IDENTITY = np.eye(3, dtype=np.float32)
SOLIDS = {
    "ellipsoid": ellipsoid((5.0, 8.0, 12.0)),
    "box": box((5.0, 8.0, 12.0)),
    "rounded box": box((5.0, 8.0, 12.0), 2.0),
    "cylinder": prism(0, 6.0, 9.0),
    "prism": prism(5, 6.0, 9.0, 1.0),
    "cone": cone(8.0, 3.0, 7.0),
    "torus": torus(8.0, 3.0),
    "capsule": capsule(6.0, 4.0),
    "slab": slab(lambda x, y: np.sin(x).astype(np.float32) * 2.0, 2.0),
    "rough": rough(ellipsoid((9.0, 9.0, 9.0)), lambda p: np.sin(p[:, 0]) * np.float32(0.5), 0.5),
    "blended": blended(
        box((5.0, 5.0, 5.0)), placed(ellipsoid((4.0, 4.0, 4.0)), IDENTITY, (5.0, 5.0, 0.0)), 2.0
    ),
    "pierced": without(box((8.0, 8.0, 8.0)), prism(0, 4.0, 20.0)),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_points(count: int = 4000) -> np.ndarray:
    return rng().uniform(-20, 20, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("name", SOLIDS)
def test_no_distance_is_larger_than_the_way_to_any_point_inside(name: str) -> None:
    solid, points = SOLIDS[name], some_points()
    distance = solid(points)
    inside, outside = points[distance <= 0], points[distance > 0]
    assert len(inside) > 30
    assert len(outside) > 300
    way = np.linalg.norm(outside[:300, None] - inside[None], axis=-1).min(axis=1)
    assert (distance[distance > 0][:300] <= way + 1e-4).all()


def test_distances_of_a_sphere_a_box_a_cylinder_a_torus_and_a_capsule_are_exact() -> None:
    p = some_points()
    np.testing.assert_allclose(
        ellipsoid((7.0, 7.0, 7.0))(p), np.linalg.norm(p, axis=1) - 7.0, atol=1e-5
    )
    # The nearest point of a box is the point moved into it.
    half = np.array([5, 8, 12])
    outside = (np.abs(p) > half).any(axis=1)
    way = np.linalg.norm(p - np.clip(p, -half, half), axis=1)
    np.testing.assert_allclose(box((5.0, 8.0, 12.0))(p)[outside], way[outside], atol=1e-5)
    deep = (half - np.abs(p)).min(axis=1)
    np.testing.assert_allclose(box((5.0, 8.0, 12.0))(p)[~outside], -deep[~outside], atol=1e-5)
    across = np.hypot(p[:, 0], p[:, 1])
    beside = (across > 6) & (np.abs(p[:, 2]) < 9)
    np.testing.assert_allclose(prism(0, 6.0, 9.0)(p)[beside], across[beside] - 6.0, atol=1e-5)
    turns = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    ring = 8 * np.stack([np.cos(turns), np.sin(turns), 0 * turns], axis=1)
    near = np.array([np.linalg.norm(q - ring, axis=1).min() for q in p[:100]])
    np.testing.assert_allclose(torus(8.0, 3.0)(p)[:100], near - 3.0, atol=1e-3)
    axis = np.stack([0 * turns, 0 * turns, np.linspace(-6, 6, 20_000)], axis=1)
    near = np.array([np.linalg.norm(q - axis, axis=1).min() for q in p[:100]])
    np.testing.assert_allclose(capsule(6.0, 4.0)(p)[:100], near - 4.0, atol=1e-3)


def test_a_prism_is_what_its_half_planes_leave_and_a_cone_has_its_two_radii() -> None:
    p = some_points()
    turns = 2 * np.pi * np.arange(5) / 5
    inside = (np.abs(p[:, 2]) <= 9) & np.all(
        [p[:, 0] * np.cos(t) + p[:, 1] * np.sin(t) <= 6 for t in turns], axis=0
    )
    assert ((prism(5, 6.0, 9.0)(p) <= 0) == inside).all()
    rim = np.array([[8, 0, -7], [3, 0, 7], [5.5, 0, 0]], np.float32)
    np.testing.assert_allclose(cone(8.0, 3.0, 7.0)(rim), 0.0, atol=1e-5)
    assert (cone(8.0, 3.0, 7.0)(rim * np.float32(0.99)) < 0).all()


def test_union_and_difference_hold_what_their_names_say() -> None:
    p = some_points()
    a, b = box((6.0, 6.0, 6.0)), placed(ellipsoid((5.0, 5.0, 5.0)), IDENTITY, (6.0, 0.0, 0.0))
    assert ((union(a, b)(p) <= 0) == ((a(p) <= 0) | (b(p) <= 0))).all()
    assert ((without(a, b)(p) < 0) == ((a(p) < 0) & (b(p) > 0))).all()
    assert (blended(a, b, 2.0)(p) <= union(a, b)(p)).all()
    np.testing.assert_array_equal(blended(a, b, 0.0001)(p), union(a, b)(p))


def test_a_turned_solid_is_the_solid_seen_turned() -> None:
    turn = rotation(rng(3))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)
    p, solid = some_points(), box((5.0, 8.0, 12.0))
    moved = p @ turn.T + np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(placed(solid, turn, (1.0, 2.0, 3.0))(moved), solid(p), atol=1e-4)


def test_the_camera_sees_a_sphere_where_its_rays_meet_it() -> None:
    camera = Camera(distance_mm=100.0, window_mm=40.0, size=32)
    points, rays = seen(ellipsoid((12.0, 12.0, 12.0)), camera)
    # |t r - c|^2 = 12^2, the nearer t
    along = rays @ np.array([0, 0, 100])
    root = along**2 - (100**2 - 12**2)
    assert (root > -0.5).all()
    t = along - np.sqrt(np.maximum(root, 0))
    inner = root > 4
    np.testing.assert_allclose((points * rays).sum(1)[inner], t[inner], atol=0.15)
    gap = np.linalg.norm(points - [0, 0, 100], axis=1) - 12
    assert (gap > -1e-4).all()
    assert (gap < 0.021).all()
    # All rays that meet it were found: a disc of half-angle asin(12 / 100).
    side = (np.arange(32) + 0.5) / 32 - 0.5
    x, y = np.meshgrid(side * 0.4, side * 0.4)
    angle = np.arctan(np.hypot(x, y))
    assert abs(len(points) - (angle < np.arcsin(0.12)).sum()) <= 4


def test_what_is_hidden_is_not_seen() -> None:
    front = placed(box((5.0, 5.0, 1.0)), IDENTITY, (0.0, 0.0, -10.0))
    behind = placed(box((5.0, 5.0, 1.0)), IDENTITY, (0.0, 0.0, 10.0))
    points, _ = seen(union(front, behind), Camera(200.0, 60.0, 48))
    assert points[:, 2].max() < 200 - 10 + 0.1 or (points[:, 2] > 200).sum() < 0.1 * len(points)
    assert points[:, 2].min() == pytest.approx(189, abs=0.1)


@pytest.mark.parametrize("depth", [-2.0, 1.5])
def test_a_mark_is_as_deep_or_high_and_as_wide_as_it_says(depth: float) -> None:
    ground = slab(lambda x, y: x * 0.0, 0.0)
    normal = normals(ground, np.zeros((1, 3), np.float32))[0]
    np.testing.assert_allclose(normal, [0, 0, -1], atol=1e-5)
    mark = Mark(np.zeros(3, np.float32), radius_mm=8.0, depth_mm=depth)
    points, _ = seen(with_mark(ground, mark, normal), Camera(300.0, 40.0, 81))
    height = 300 - points[:, 2]
    radius = np.hypot(points[:, 0], points[:, 1])
    assert height[radius < 0.3].mean() == pytest.approx(depth, abs=0.05)
    assert np.abs(height[radius > 9.5]).max() < 0.05
    assert (np.abs(height[(radius > 4) & (radius < 6)]) > 0.2).all()


@pytest.mark.parametrize("name", ["ellipsoid", "rounded box", "torus", "capsule"])
def test_normals_point_out_of_the_solid_at_right_angles(name: str) -> None:
    solid = SOLIDS[name]
    points, _ = seen(solid, Camera(120.0, 40.0, 40))
    points = points - np.array([0, 0, 120], np.float32)
    normal = normals(solid, points)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    outside, inside = (solid(points + side * normal) for side in (0.5, -0.5))
    assert (outside > 0.1).mean() > 0.99
    assert (inside < -0.05).mean() > 0.95


def test_shapes_follow_from_their_number_alone() -> None:
    first, again, other = shape(7, 5), shape(7, 5), shape(7, 6)
    np.testing.assert_array_equal(first.points, again.points)
    assert first.camera == again.camera
    assert len(first.points) != len(other.points) or not np.array_equal(first.points, other.points)
    assert not np.array_equal(shape(8, 5).points[:50], first.points[:50])


def test_the_stream_holds_every_family_dents_and_bumps_in_front_of_the_camera() -> None:
    shapes = [shape(0, i) for i in range(60)]
    assert {s.family for s in shapes} == set(FAMILIES)
    depths = [mark.depth_mm for s in shapes for mark in s.marks]
    assert min(depths) < 0 < max(depths)
    windows = [s.camera.window_mm for s in shapes]
    assert min(windows) < 35
    assert max(windows) > 90
    for s in shapes:
        c = s.camera
        assert len(s.points) >= 512
        assert np.isfinite(s.points).all()
        assert np.abs(s.points[:, 2] - c.distance_mm).max() < 1.3 * c.window_mm
        # A pinhole's square: nothing beside the frame but for noise along the ray.
        pixel = s.points[:, :2] / s.points[:, 2:] * c.distance_mm / c.window_mm
        assert np.abs(pixel).max() < 0.501


def test_scanning_errs_along_the_rays_and_loses_readings() -> None:
    camera = Camera(200.0, 56.0, 56)
    points, rays = seen(ellipsoid((25.0, 25.0, 25.0)), camera)
    rows, moved = [], []
    for seed in range(20):
        found = scanned(points, rays, camera, rng(seed))
        assert len(points) * 0.85 < len(found) <= len(points)
        rows.append(len(found))
        direction = found / np.linalg.norm(found, axis=1, keepdims=True)
        # Each point still lies on one of the rays.
        assert (direction[:40] @ rays.T).max(axis=1).min() > 1 - 1e-6
        moved.append(np.abs(np.linalg.norm(found - [0, 0, 200], axis=1) - 25).mean())
    assert min(rows) < len(points)
    assert 0 < np.mean(moved) < 0.15
