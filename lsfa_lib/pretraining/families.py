"""Families of random solids: single, joined, pierced, filleted and rough ones, and landscapes.

Each function takes the side of the window (mm) and the source of randomness. A relief is returned
with the bound of its slope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator

from lsfa_lib.pretraining import solids
from lsfa_lib.pretraining.solids import Relief, Solid, Values

Family = Literal["solid", "joined", "pierced", "filleted", "rough", "landscape"]
FAMILIES: tuple[Family, ...] = get_args(Family)


def random_solid(family: Family, window_mm: float, rng: Generator) -> Solid:
    """A solid of that family around the origin."""
    return _MAKERS[family](window_mm, rng)


def rotation(rng: Generator) -> Float32[np.ndarray, "3 3"]:
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


def _primitive(reach: float, rng: Generator) -> Solid:
    """One solid of about that radius around the origin, in a random orientation."""
    a, b, c = (float(x) for x in reach * rng.uniform(0.35, 1.0, 3))
    thin, rounding = min(a, b, c), float(rng.choice([0.0, rng.uniform(0.02, 0.5)]))
    options = (
        solids.ellipsoid((a, b, c)),
        solids.box((a, b, c), rounding * thin),
        solids.prism(0, a, b, rounding * min(a, b)),
        solids.prism(int(rng.choice([3, 5, 6, 8])), a, b, rounding * min(a, b)),
        solids.cone(a, a * rng.uniform(0.2, 0.9), b),
        solids.torus(0.8 * a, 0.8 * a * rng.uniform(0.2, 0.6)),
        solids.capsule(a, 0.6 * b),
    )
    solid = options[rng.integers(len(options))]
    return solids.placed(solid, rotation(rng), (0.0, 0.0, 0.0))


def _some(window: float, rng: Generator) -> list[Solid]:
    """Two to five solids near the middle of the window."""
    identity = np.eye(3, dtype=np.float32)
    parts = []
    for _ in range(rng.integers(2, 6)):
        part = _primitive(window * rng.uniform(0.15, 0.4), rng)
        parts.append(solids.placed(part, identity, (window * rng.uniform(-0.28, 0.28, 3)).tolist()))
    return parts


def _single(window: float, rng: Generator) -> Solid:
    return _primitive(window * rng.uniform(0.4, 0.75), rng)


def _joined(window: float, rng: Generator) -> Solid:
    return solids.union(*_some(window, rng))


def _pierced(window: float, rng: Generator) -> Solid:
    body = _primitive(window * rng.uniform(0.5, 0.75), rng)
    for solid in _some(window * 0.6, rng):
        body = solids.without(body, solid)
    return body


def _filleted(window: float, rng: Generator) -> Solid:
    body, *others = _some(window, rng)
    for solid in others:
        body = solids.blended(body, solid, window * rng.uniform(0.03, 0.15))
    return body


def _rough(window: float, rng: Generator) -> Solid:
    """A solid whose surface is displaced by a sum of waves in space."""
    body = _primitive(window * rng.uniform(0.45, 0.75), rng)
    count = int(rng.integers(1, 7))
    lengths = window * rng.uniform(0.06, 0.4, count)
    waves = (rng.standard_normal((3, count)) / np.sqrt(3) * 2 * np.pi / lengths).astype(np.float32)
    turns = np.linalg.norm(waves, axis=0)
    heights = (rng.uniform(0.05, 0.5, count) / turns / np.sqrt(count)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    steepest = float((heights * turns).sum())
    return solids.rough(body, lambda p: np.sin(p @ waves + phases) @ heights, steepest)


def _landscape(window: float, rng: Generator) -> Solid:
    """Waves, ribs, steps or cells on tilted, gently curved ground."""
    chosen = rng.choice(len(_RELIEFS), int(rng.integers(1, 3)), replace=False)
    parts = [_RELIEFS[i](window, rng) for i in chosen]
    tilt = (rng.uniform(-0.35, 0.35, 2)).astype(np.float32)
    curve = np.float32(rng.uniform(-0.5, 0.5) / window)

    def relief(x: Values, y: Values) -> Values:
        ground = tilt[0] * x + tilt[1] * y + curve * (x * x + y * y) / 2
        return ground + sum(part(x, y) for part, _ in parts)

    steepest = float(np.linalg.norm(tilt)) + 0.5 + sum(slope for _, slope in parts)
    return solids.slab(relief, steepest)


def _direction(turn: float) -> Float32[np.ndarray, "xy=2"]:
    """The unit vector at an angle."""
    return np.array([np.cos(turn), np.sin(turn)], np.float32)


def _waves(window: float, rng: Generator) -> tuple[Relief, float]:
    count = int(rng.integers(2, 9))
    lengths = window * rng.uniform(0.08, 0.8, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    k = (2 * np.pi / lengths * np.stack([np.cos(turn), np.sin(turn)])).astype(np.float32)
    heights = rng.uniform(0.05, 0.6, count) * lengths / (2 * np.pi) / np.sqrt(count)
    heights = heights.astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    steepest = float((heights * np.linalg.norm(k, axis=0)).sum())
    return lambda x, y: np.sin(np.outer(x, k[0]) + np.outer(y, k[1]) + phases) @ heights, steepest


def _ribs(window: float, rng: Generator) -> tuple[Relief, float]:
    """Parallel ribs, round (|sin|) or with straight flanks (a triangle)."""
    period, slope = window * rng.uniform(0.06, 0.35), rng.uniform(0.2, 1.2)
    along = _direction(rng.uniform(0, np.pi))
    round_top = bool(rng.random() < 0.5)

    def relief(x: Values, y: Values) -> Values:
        t = (x * along[0] + y * along[1]) / np.float32(period)
        if round_top:
            return np.abs(np.sin(np.pi * t)) * np.float32(slope * period / np.pi)
        return np.abs(t - np.floor(t) - 0.5) * np.float32(slope * period)

    return relief, slope


def _terraces(window: float, rng: Generator) -> tuple[Relief, float]:
    """Two to four steps along lines, none too steep for a scanner."""
    steps = []
    for _ in range(rng.integers(2, 5)):
        along, offset = _direction(rng.uniform(0, 2 * np.pi)), window * rng.uniform(-0.4, 0.4)
        steps.append((along, np.float32(offset), np.float32(window * rng.uniform(0.01, 0.06))))
    slope = np.float32(rng.uniform(1, 2.5))

    def relief(x: Values, y: Values) -> Values:
        distances = [x * along[0] + y * along[1] - offset for along, offset, _ in steps]
        rises = [np.clip(d * slope, 0, step[2]) for d, step in zip(distances, steps, strict=True)]
        return np.sum(rises, axis=0)

    return relief, float(slope) * len(steps)


def _cells(window: float, rng: Generator) -> tuple[Relief, float]:
    """Pebbles: distance to the nearest of random seeds, as cones or round heads."""
    count = int(rng.integers(8, 40))
    seeds = (window * rng.uniform(-0.7, 0.7, (count, 2))).astype(np.float32)
    reach = np.float32(window * rng.uniform(0.5, 1.2) / np.sqrt(count))
    slope, round_top = np.float32(rng.uniform(0.2, 0.8)), bool(rng.random() < 0.7)

    def relief(x: Values, y: Values) -> Values:
        squared = (x[:, None] - seeds[:, 0]) ** 2 + (y[:, None] - seeds[:, 1]) ** 2
        near = np.minimum(np.sqrt(squared.min(axis=1)), reach)
        fall = near**2 / (2 * reach) if round_top else near
        return -fall * slope

    return relief, float(slope)


_RELIEFS = (_waves, _ribs, _terraces, _cells)
_MAKERS: dict[Family, Callable[[float, Generator], Solid]] = {
    "solid": _single,
    "joined": _joined,
    "pierced": _pierced,
    "filleted": _filleted,
    "rough": _rough,
    "landscape": _landscape,
}
