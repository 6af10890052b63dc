"""An endless stream of scanned shapes: shape i of a seed is always the same.

Solids of all `families`, with dents and bumps, seen from one side by a scanner whose window,
spacing, noise and gaps vary. None of the demo's products is among them. Millimetres, in the
camera's frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator

from lsfa_lib.pretraining import solids
from lsfa_lib.pretraining.families import FAMILIES, Family, random_solid
from lsfa_lib.pretraining.solids import Camera, Points, Solid

WINDOW_MM = (24.0, 130.0)
"""Smallest and largest window; the spacing between points follows, from 0.4 to 2.3 mm."""
MOST_NOISE = 0.15
"""Largest standard deviation of a reading along its ray, over the spacing between points."""
FEWEST_POINTS = 512
ATTEMPTS = 50


@dataclass(frozen=True)
class Mark:
    """A dent (depth < 0) or bump: the spherical cap of this radius and depth at a surface point."""

    centre: Float32[np.ndarray, 3]
    """In the solid's own frame, whose origin is the middle of the window."""
    radius_mm: float
    depth_mm: float


@dataclass(frozen=True)
class Shape:
    """The scan of one shape."""

    points: Points
    """In the camera's frame, in the order of the image's rows."""
    family: Family
    camera: Camera
    marks: tuple[Mark, ...]


def shape(seed: int, index: int) -> Shape:
    """The shape of that number, with at least `FEWEST_POINTS` visible points."""
    rng = np.random.default_rng((seed, index))
    for _ in range(ATTEMPTS):
        family = FAMILIES[rng.integers(len(FAMILIES))]
        camera = random_camera(56, rng)
        solid = random_solid(family, camera.window_mm, rng)
        solid, marks = _marked(solid, camera, int(rng.integers(0, 5)), rng)
        points = scanned(*solids.seen(solid, camera), camera, rng)
        if len(points) >= FEWEST_POINTS:
            return Shape(points, family, camera, marks)
    raise AssertionError(f"no shape of seed {seed}, {index} fills its window")


def random_camera(size: int, rng: Generator) -> Camera:
    """A camera far enough away for its window to be narrow, as scanners are.

    Each doubling of the window's side is equally likely.
    """
    window = float(np.exp(rng.uniform(*np.log(WINDOW_MM))))
    return Camera(distance_mm=window * rng.uniform(2.5, 5), window_mm=window, size=size)


def _marked(
    solid: Solid, camera: Camera, count: int, rng: Generator
) -> tuple[Solid, tuple[Mark, ...]]:
    """The solid with dents and bumps where the camera sees them."""
    points, _ = solids.seen(solid, Camera(camera.distance_mm, camera.window_mm, 24))
    if not len(points) or not count:
        return solid, ()
    points = points - camera.origin
    chosen = points[rng.choice(len(points), min(count, len(points)), replace=False)]
    marks = []
    for at, normal in zip(chosen, solids.normals(solid, chosen), strict=True):
        radius = float(camera.window_mm * rng.uniform(0.03, 0.12))
        depth = float(rng.choice([-1, 1]) * camera.window_mm * rng.uniform(0.004, 0.03))
        marks.append(Mark(at, radius, depth))
        solid = with_mark(solid, marks[-1], normal)
    return solid, tuple(marks)


def with_mark(solid: Solid, mark: Mark, normal: Float32[np.ndarray, 3]) -> Solid:
    """The solid minus or plus a sphere of radius (r^2 + d^2) / 2d, whose cap is the mark."""
    depth = abs(mark.depth_mm)
    radius = (mark.radius_mm**2 + depth**2) / (2 * depth)
    outwards = radius - depth if mark.depth_mm < 0 else depth - radius
    centre = mark.centre + np.float32(outwards) * normal
    ball = solids.ellipsoid((radius, radius, radius))
    ball = solids.placed(ball, np.eye(3, dtype=np.float32), centre.tolist())
    if mark.depth_mm < 0:
        return solids.without(solid, ball)
    return solids.blended(solid, ball, 0.3 * depth)


def scanned(points: Points, rays: Points, camera: Camera, rng: Generator) -> Points:
    """The points with a scanner's flaws: errors along the rays, missing readings, and a gap."""
    noise_mm = rng.uniform(0, MOST_NOISE) * camera.spacing_mm
    error = noise_mm * rng.standard_normal(len(points), dtype=np.float32)
    points = points + error[:, None] * rays
    kept = rng.random(len(points)) >= rng.uniform(0, 0.05)
    if len(points) and rng.random() < 0.3:
        at = points[rng.integers(len(points))]
        reach = camera.window_mm * rng.uniform(0.02, 0.08)
        kept &= np.linalg.norm(points - at, axis=1) > reach
    return np.ascontiguousarray(points[kept])
