"""Solids as signed distances, and the points of their surfaces that a camera sees.

A solid is a function of points (N, 3) that is negative inside and, outside, at most the distance to
its surface: steps of this length along a ray never jump over the surface. Millimetres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Float32

Points = Float32[np.ndarray, "_ 3"]
Values = Float32[np.ndarray, " _"]
Solid = Callable[[Points], Values]
Relief = Callable[[Values, Values], Values]
STEPS = 48
NEAR_MM = 0.02
"""A ray this close to the surface has met it; below any scanner's noise."""


@dataclass(frozen=True)
class Camera:
    """A pinhole on the z axis that looks along it at the origin, like a scanner above a table."""

    distance_mm: float
    window_mm: float
    """Side of the square it sees at the origin."""
    size: int
    """Pixels along each side."""

    @property
    def spacing_mm(self) -> float:
        """Between neighbouring points in the middle of the window."""
        return self.window_mm / self.size

    @property
    def origin(self) -> Float32[np.ndarray, "xyz=3"]:
        """Origin of the solids in the camera's frame."""
        return np.array([0, 0, self.distance_mm], np.float32)


def ellipsoid(radii: Sequence[float]) -> Solid:
    """(|p / r| - 1) min r: a lower bound of the distance, exact for a sphere."""
    scale, least = np.asarray(radii, np.float32), min(radii)
    return lambda p: (np.linalg.norm(p / scale, axis=1) - 1) * np.float32(least)


def box(half: Sequence[float], rounding: float = 0.0) -> Solid:
    """A box with these half sides, its edges and corners rounded by that radius."""
    inner = np.asarray(half, np.float32) - np.float32(rounding)
    return lambda p: _distance_of_faces(np.abs(p) - inner) - np.float32(rounding)


def prism(sides: int, radius: float, half_height: float, rounding: float = 0.0) -> Solid:
    """A regular prism along z of that inradius; a cylinder for 0 sides."""
    turns = np.arange(sides) * (2 * np.pi / max(sides, 1))
    facing = np.stack([np.cos(turns), np.sin(turns)]).astype(np.float32)

    def distance(p: Points) -> Values:
        across = np.linalg.norm(p[:, :2], axis=1) if sides == 0 else (p[:, :2] @ facing).max(axis=1)
        q = np.stack([across - radius, np.abs(p[:, 2]) - half_height], axis=1) + rounding
        return (_distance_of_faces(q) - rounding).astype(np.float32)

    return distance


def _distance_of_faces(q: Float32[np.ndarray, "N F"]) -> Values:
    """Distance to a solid from those to its F faces, which meet at right angles."""
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def cone(lower: float, upper: float, half_height: float) -> Solid:
    """A truncated cone along z with these radii at its ends."""
    slope = (lower - upper) / (2 * half_height)
    shrink = np.float32(1 / np.hypot(1, slope))

    def distance(p: Points) -> Values:
        middle = (lower + upper) / 2 - slope * p[:, 2]
        side = (np.linalg.norm(p[:, :2], axis=1) - middle) * shrink
        return np.maximum(side, np.abs(p[:, 2]) - half_height).astype(np.float32)

    return distance


def torus(ring: float, tube: float) -> Solid:
    """A torus around z."""
    return lambda p: np.hypot(np.linalg.norm(p[:, :2], axis=1) - ring, p[:, 2]) - np.float32(tube)


def capsule(half_length: float, radius: float) -> Solid:
    """A cylinder along z with hemispheres on its ends."""

    def distance(p: Points) -> Values:
        beyond = np.maximum(np.abs(p[:, 2]) - half_length, 0)
        return np.hypot(np.linalg.norm(p[:, :2], axis=1), beyond) - np.float32(radius)

    return distance


def slab(relief: Relief, steepest: float) -> Solid:
    """Everything beyond z = -relief(x, y): a landscape seen by a camera at negative z.

    `steepest` bounds the relief's slope.
    """
    shrink = np.float32(1 / np.hypot(1, steepest))
    return lambda p: (-(p[:, 2] + relief(p[:, 0], p[:, 1])) * shrink).astype(np.float32)


def placed(solid: Solid, turn: Float32[np.ndarray, "3 3"], centre: Sequence[float]) -> Solid:
    """The solid turned by a rotation matrix and moved to `centre`."""
    at = np.asarray(centre, np.float32)
    return lambda p: solid((p - at) @ turn)


def union(*solids: Solid) -> Solid:
    """The union of all of them."""
    return lambda p: reduce(np.minimum, (solid(p) for solid in solids))


def blended(a: Solid, b: Solid, reach: float) -> Solid:
    """Their union with a fillet of that reach: min(a, b) - h^2 reach / 4, h = max(0, 1 - |a-b|/k).

    A lower bound of both distances, so that rays cannot jump.
    """

    def distance(p: Points) -> Values:
        first, second = a(p), b(p)
        overlap = np.maximum(0, 1 - np.abs(first - second) / np.float32(reach))
        return np.minimum(first, second) - overlap**2 * np.float32(reach / 4)

    return distance


def without(a: Solid, b: Solid) -> Solid:
    """The part of `a` that is not in `b`."""
    return lambda p: np.maximum(a(p), -b(p))


def rough(solid: Solid, relief: Solid, steepest: float) -> Solid:
    """The surface moved outwards by a function of space whose gradient is at most `steepest`."""
    shrink = np.float32(1 / (1 + steepest))
    return lambda p: (solid(p) - relief(p)) * shrink


def normals(solid: Solid, points: Points, reach_mm: float = 0.05) -> Points:
    """Unit vectors out of the solid at points on its surface, by central differences."""
    steps = np.float32(reach_mm) * np.eye(3, dtype=np.float32)
    slopes = [solid(points + step) - solid(points - step) for step in steps]
    gradient = np.stack(slopes, axis=1)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)


def seen(solid: Solid, camera: Camera) -> tuple[Points, Points]:
    """Points of the surface the camera sees, in its frame, and the unit ray to each.

    The origin of the solids is at (0, 0, `distance_mm`) in the camera's frame.
    """
    across = (np.arange(camera.size, dtype=np.float32) + 0.5) / camera.size - 0.5
    side = across * np.float32(camera.window_mm / camera.distance_mm)
    y, x = np.meshgrid(side, side, indexing="ij")
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # Nothing is farther from the origin than a window's side, so rays start and end there.
    depth = np.full(len(rays), max(camera.distance_mm - 1.2 * camera.window_mm, 1.0), np.float32)
    met = np.zeros(len(rays), bool)
    marching = np.arange(len(rays))
    for _ in range(STEPS):
        gap = solid(rays[marching] * depth[marching, None] - camera.origin)
        close = gap < NEAR_MM
        met[marching[close]] = True
        marching, gap = marching[~close], gap[~close]
        depth[marching] += gap
        inside = depth[marching] < camera.distance_mm + 1.2 * camera.window_mm
        marching = marching[inside]
        if not len(marching):
            break
    return rays[met] * depth[met, None], rays[met]
