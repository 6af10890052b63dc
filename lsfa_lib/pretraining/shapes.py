"""An endless stream of scanned shapes: shape i of a seed is the same whenever it is asked for.

Single and joined solids, holes, fillets, rough skins and landscapes, with dents and bumps, seen
from one side by a scanner whose window, spacing, noise and gaps differ. None of the demo's products
is among them. Millimetres, in the camera's frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from lsfa_lib.pretraining.solids import (
    Camera,
    Points,
    Relief,
    Solid,
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

Family = Literal["solid", "joined", "pierced", "filleted", "rough", "landscape"]
FAMILIES: tuple[Family, ...] = get_args(Family)
WINDOW_MM = (24.0, 130.0)
"""Least and largest window; spacings between points follow, from 0.4 to 2.3 mm."""
MOST_NOISE = 0.15
"""Of a reading along its ray, over the distance between points."""
FEWEST_POINTS = 512
ATTEMPTS = 50


@dataclass(frozen=True)
class Mark:
    """A dent (depth < 0) or bump: the spherical cap of this radius and depth at a surface point."""

    centre: Float32[np.ndarray, 3]
    """In the solid's own frame, its origin in the middle of the window."""
    radius_mm: float
    depth_mm: float


@dataclass(frozen=True)
class Shape:
    """What a scanner gave of one shape."""

    points: Points
    """In the camera's frame, rows of the image one after the other."""
    family: Family
    camera: Camera
    marks: tuple[Mark, ...]


def shape(seed: int, index: int) -> Shape:
    """The shape of that number; at least `FEWEST_POINTS` points of it were seen."""
    rng = np.random.default_rng((seed, index))
    for _ in range(ATTEMPTS):
        family = FAMILIES[rng.integers(len(FAMILIES))]
        camera = _camera(rng)
        solid = _FAMILIES[family](camera.window_mm, rng)
        solid, marks = marked(solid, camera, int(rng.integers(0, 5)), rng)
        points = scanned(*seen(solid, camera), camera, rng)
        if len(points) >= FEWEST_POINTS:
            return Shape(points, family, camera, marks)
    raise AssertionError(f"no shape of seed {seed}, {index} fills its window")


def marked(
    solid: Solid, camera: Camera, count: int, rng: np.random.Generator
) -> tuple[Solid, tuple[Mark, ...]]:
    """The solid with dents and bumps where the camera sees them."""
    points, _ = seen(solid, Camera(camera.distance_mm, camera.window_mm, 24))
    if not len(points) or not count:
        return solid, ()
    points = points - np.array([0, 0, camera.distance_mm], np.float32)
    chosen = points[rng.choice(len(points), min(count, len(points)), replace=False)]
    marks = tuple(
        Mark(
            centre=at,
            radius_mm=float(camera.window_mm * rng.uniform(0.03, 0.12)),
            depth_mm=float(rng.choice([-1, 1]) * camera.window_mm * rng.uniform(0.004, 0.03)),
        )
        for at in chosen
    )
    for mark, normal in zip(marks, normals(solid, chosen), strict=True):
        solid = with_mark(solid, mark, normal)
    return solid, marks


def with_mark(solid: Solid, mark: Mark, normal: Float32[np.ndarray, 3]) -> Solid:
    """A sphere of radius (r^2 + d^2) / 2d, whose cap is the mark, taken away or put on."""
    depth = abs(mark.depth_mm)
    radius = (mark.radius_mm**2 + depth**2) / (2 * depth)
    outwards = radius - depth if mark.depth_mm < 0 else depth - radius
    centre = mark.centre + np.float32(outwards) * normal
    ball = placed(ellipsoid((radius, radius, radius)), np.eye(3, dtype=np.float32), centre.tolist())
    if mark.depth_mm < 0:
        return without(solid, ball)
    return blended(solid, ball, 0.3 * depth)


def scanned(
    points: Points, rays: Float32[np.ndarray, "N 3"], camera: Camera, rng: np.random.Generator
) -> Float32[np.ndarray, "M 3"]:
    """The points with a scanner's faults: errors along the rays, readings that fail, and a gap."""
    spacing = camera.window_mm / camera.size
    error = (
        rng.uniform(0, MOST_NOISE) * spacing * rng.standard_normal(len(points), dtype=np.float32)
    )
    points = points + error[:, None] * rays
    kept = rng.random(len(points)) >= rng.uniform(0, 0.05)
    if len(points) and rng.random() < 0.3:
        at = points[rng.integers(len(points))]
        reach = camera.window_mm * rng.uniform(0.02, 0.08)
        kept &= np.linalg.norm(points - at, axis=1) > reach
    return np.ascontiguousarray(points[kept])


def rotation(rng: np.random.Generator) -> Float32[np.ndarray, "3 3"]:
    """A uniformly random rotation, from a unit quaternion."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        np.float32,
    )


def _camera(rng: np.random.Generator) -> Camera:
    """Far enough for its window to be narrow, as scanners are."""
    window = drawn_window(rng)
    return Camera(distance_mm=window * rng.uniform(2.5, 5), window_mm=window, size=56)


def drawn_window(rng: np.random.Generator) -> float:
    """A window's side, mm: each doubling is as likely as any other."""
    return float(np.exp(rng.uniform(*np.log(WINDOW_MM))))


def _primitive(reach: float, rng: np.random.Generator) -> Solid:
    """One solid of about that reach, standing anyhow around the origin."""
    a, b, c = (float(x) for x in reach * rng.uniform(0.35, 1.0, 3))
    thin, rounding = min(a, b, c), float(rng.choice([0.0, rng.uniform(0.02, 0.5)]))
    options = (
        ellipsoid((a, b, c)),
        box((a, b, c), rounding * thin),
        prism(0, a, b, rounding * min(a, b)),
        prism(int(rng.choice([3, 5, 6, 8])), a, b, rounding * min(a, b)),
        cone(a, a * rng.uniform(0.2, 0.9), b),
        torus(0.8 * a, 0.8 * a * rng.uniform(0.2, 0.6)),
        capsule(a, 0.6 * b),
    )
    solid = options[rng.integers(len(options))]
    return placed(solid, rotation(rng), (0.0, 0.0, 0.0))


def _some(window: float, rng: np.random.Generator) -> list[Solid]:
    """Two to five solids about the middle of the window."""
    identity = np.eye(3, dtype=np.float32)
    parts = []
    for _ in range(rng.integers(2, 6)):
        reach = window * rng.uniform(0.15, 0.4)
        parts.append(placed(_primitive(reach, rng), identity, _near(window, rng)))
    return parts


def _near(window: float, rng: np.random.Generator) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in window * rng.uniform(-0.28, 0.28, 3))
    return x, y, z


def _single(window: float, rng: np.random.Generator) -> Solid:
    return _primitive(window * rng.uniform(0.4, 0.75), rng)


def _joined(window: float, rng: np.random.Generator) -> Solid:
    return union(*_some(window, rng))


def _pierced(window: float, rng: np.random.Generator) -> Solid:
    body = _primitive(window * rng.uniform(0.5, 0.75), rng)
    for solid in _some(window * 0.6, rng):
        body = without(body, solid)
    return body


def _filleted(window: float, rng: np.random.Generator) -> Solid:
    body, *others = _some(window, rng)
    for solid in others:
        body = blended(body, solid, window * rng.uniform(0.03, 0.15))
    return body


def _rough(window: float, rng: np.random.Generator) -> Solid:
    """A solid under a sum of waves in space."""
    body = _primitive(window * rng.uniform(0.45, 0.75), rng)
    count = int(rng.integers(1, 7))
    lengths = window * rng.uniform(0.06, 0.4, count)
    waves = (rng.standard_normal((3, count)) / np.sqrt(3) * 2 * np.pi / lengths).astype(np.float32)
    turns = np.linalg.norm(waves, axis=0)
    heights = (rng.uniform(0.05, 0.5, count) / turns / np.sqrt(count)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    return rough(
        body, lambda p: np.sin(p @ waves + phases) @ heights, float((heights * turns).sum())
    )


def _landscape(window: float, rng: np.random.Generator) -> Solid:
    """Waves, ribs, steps or cells on a tilted, gently curved ground."""
    reliefs: tuple[Callable[[float, np.random.Generator], tuple[Relief, float]], ...]
    reliefs = (_waves, _ribs, _terraces, _cells)
    chosen = rng.choice(len(reliefs), int(rng.integers(1, 3)), replace=False)
    parts = [reliefs[i](window, rng) for i in chosen]
    tilt = (rng.uniform(-0.35, 0.35, 2)).astype(np.float32)
    curve = np.float32(rng.uniform(-0.5, 0.5) / window)

    def relief(
        x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
    ) -> Float32[np.ndarray, " N"]:
        ground = tilt[0] * x + tilt[1] * y + curve * (x * x + y * y) / 2
        return ground + sum(part(x, y) for part, _ in parts)

    steepest = float(np.linalg.norm(tilt)) + 0.5 + sum(slope for _, slope in parts)
    return slab(relief, steepest)


def _waves(window: float, rng: np.random.Generator) -> tuple[Relief, float]:
    count = int(rng.integers(2, 9))
    lengths = window * rng.uniform(0.08, 0.8, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    k = (2 * np.pi / lengths * np.stack([np.cos(turn), np.sin(turn)])).astype(np.float32)
    heights = (rng.uniform(0.05, 0.6, count) * lengths / (2 * np.pi) / np.sqrt(count)).astype(
        np.float32
    )
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    steepest = float((heights * np.linalg.norm(k, axis=0)).sum())
    return lambda x, y: np.sin(np.outer(x, k[0]) + np.outer(y, k[1]) + phases) @ heights, steepest


def _ribs(window: float, rng: np.random.Generator) -> tuple[Relief, float]:
    """Parallel ribs, round (|sin|) or with straight flanks (a triangle)."""
    period, slope = window * rng.uniform(0.06, 0.35), rng.uniform(0.2, 1.2)
    turn = rng.uniform(0, np.pi)
    along = np.array([np.cos(turn), np.sin(turn)], np.float32)
    round_top = bool(rng.random() < 0.5)

    def relief(
        x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
    ) -> Float32[np.ndarray, " N"]:
        t = (x * along[0] + y * along[1]) / np.float32(period)
        if round_top:
            return np.abs(np.sin(np.pi * t)) * np.float32(slope * period / np.pi)
        return np.abs(t - np.floor(t) - 0.5) * np.float32(slope * period)

    return relief, slope


def _terraces(window: float, rng: np.random.Generator) -> tuple[Relief, float]:
    """Two to four steps along lines, each as steep as a scanner still sees."""
    steps = []
    for _ in range(rng.integers(2, 5)):
        turn, offset = rng.uniform(0, 2 * np.pi), window * rng.uniform(-0.4, 0.4)
        along = np.array([np.cos(turn), np.sin(turn)], np.float32)
        steps.append((along, np.float32(offset), np.float32(window * rng.uniform(0.01, 0.06))))
    slope = np.float32(rng.uniform(1, 2.5))

    def relief(
        x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
    ) -> Float32[np.ndarray, " N"]:
        rising = (
            np.clip((x * along[0] + y * along[1] - offset) * slope, 0, height)
            for along, offset, height in steps
        )
        return np.sum(list(rising), axis=0)

    return relief, float(slope) * len(steps)


def _cells(window: float, rng: np.random.Generator) -> tuple[Relief, float]:
    """Pebbles: distance to the nearest of random seeds, as cones or round heads."""
    count = int(rng.integers(8, 40))
    seeds = (window * rng.uniform(-0.7, 0.7, (count, 2))).astype(np.float32)
    reach = np.float32(window * rng.uniform(0.5, 1.2) / np.sqrt(count))
    slope, round_top = np.float32(rng.uniform(0.2, 0.8)), bool(rng.random() < 0.7)

    def relief(
        x: Float32[np.ndarray, " N"], y: Float32[np.ndarray, " N"]
    ) -> Float32[np.ndarray, " N"]:
        squared = (x[:, None] - seeds[:, 0]) ** 2 + (y[:, None] - seeds[:, 1]) ** 2
        near = np.minimum(np.sqrt(squared.min(axis=1)), reach)
        fall = near**2 / (2 * reach) if round_top else near
        return -fall * slope

    return relief, float(slope)


_FAMILIES: dict[Family, Callable[[float, np.random.Generator], Solid]] = {
    "solid": _single,
    "joined": _joined,
    "pierced": _pierced,
    "filleted": _filleted,
    "rough": _rough,
    "landscape": _landscape,
}
