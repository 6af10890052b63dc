"""Marks that good parts may have: faint spots, hairline scratches, uneven shade. No geometry."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from lsfa_lib.demo.defects import FOREIGN
from lsfa_lib.demo.rendering import Colours, Grid, Surface, channels, noise


@dataclass(frozen=True)
class Wear:
    """How worn good parts are; 0 disables a kind of mark."""

    spots: float = 0.0
    """Mean number of spots of dust or grease, each 0.4 to 2 mm wide."""
    spot_strength: float = 0.0
    """Largest fraction of a spot's colour."""
    scratches: float = 0.0
    """Mean number of scratches, each 3 to 15 mm long and 0.25 mm wide at half strength."""
    scratch_contrast: float = 0.0
    """Largest change of brightness along a scratch, relative."""
    shade: float = 0.0
    """Standard deviation of the brightness across the part, relative."""


def worn(surface: Surface, wear: Wear, mm: float, rng: Generator) -> Surface:
    """`surface`, whose cells are `mm` wide, with the marks that `rng` draws."""
    if wear == Wear():
        return surface
    side = len(surface.part)
    albedo = surface.albedo * (1 + wear.shade * noise(rng, side, 20 / mm, 120 / mm))
    cells = np.argwhere(surface.part)
    for _ in range(rng.poisson(wear.spots)):
        centre, width = cells[rng.integers(len(cells))], np.exp(rng.uniform(*np.log([0.4, 2.0])))
        _spot(albedo, centre, width / mm, rng.uniform(0, wear.spot_strength), rng)
    for _ in range(rng.poisson(wear.scratches)):
        change = rng.uniform(-wear.scratch_contrast, wear.scratch_contrast)
        _scratch(albedo, cells[rng.integers(len(cells))], change, mm, rng)
    albedo = np.where(surface.part, np.clip(albedo, 0.005, 1), surface.albedo)
    return replace(surface, albedo=albedo.astype(np.float32))


def _spot(
    albedo: Colours, centre: np.ndarray, width: float, strength: float, rng: Generator
) -> None:
    """A soft round spot of a foreign colour, in place; `width` in cells."""
    foreign = channels(FOREIGN[rng.integers(len(FOREIGN))])
    (rows, columns), (down, right) = _window(centre, width, albedo.shape[1])
    share = strength * np.exp(-2 * (down**2 + right**2) / (width / 2) ** 2)
    patch = albedo[:, rows, columns]
    albedo[:, rows, columns] = patch + share.astype(np.float32) * (foreign - patch)


def _scratch(albedo: Colours, centre: np.ndarray, change: float, mm: float, rng: Generator) -> None:
    """A straight line that is brighter or darker by `change`, in place."""
    length, angle = rng.uniform(3, 15) / mm, rng.uniform(0, np.pi)
    (rows, columns), (down, right) = _window(centre, length, albedo.shape[1])
    along = np.abs(np.cos(angle) * right + np.sin(angle) * down)
    across = np.cos(angle) * down - np.sin(angle) * right
    fade = np.clip((length / 2 - along) / (0.2 * length), 0, 1)
    line = fade * np.exp(-(((across * mm) / 0.15) ** 2))
    albedo[:, rows, columns] *= (1 + change * line).astype(np.float32)


def _window(
    centre: np.ndarray, reach: float, side: int
) -> tuple[tuple[slice, slice], tuple[Grid, Grid]]:
    """The rows and columns within `reach` cells of `centre`, and the offsets of their cells."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach), side - 1).astype(int) + 1
    rows, columns = slice(low[0], high[0]), slice(low[1], high[1])
    lines = (
        np.arange(a, b, dtype=np.float32) - c for a, b, c in zip(low, high, centre, strict=True)
    )
    down, right = np.meshgrid(*lines, indexing="ij")
    return (rows, columns), (down.astype(np.float32), right.astype(np.float32))
