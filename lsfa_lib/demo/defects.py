"""Defects for a `Surface`: hole, crack, cut, bent, contamination and colour, of a given area.

Every kind scores each cell of the part, higher away from the defect. The cells with the lowest
scores, as many as the drawn area has, are the defect, so areas are exact for any shape. `colour`
does not change the geometry, `bent` does not change the colours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from scipy import ndimage

from lsfa_lib.demo.rendering import Colour, Colours, Grid, Mask, Surface, channels, noise

Range = tuple[float, float]

FOREIGN = (
    (0.10, 0.05, 0.02),
    (0.62, 0.60, 0.55),
    (0.32, 0.06, 0.04),
    (0.05, 0.09, 0.27),
    (0.50, 0.36, 0.08),
    (0.08, 0.17, 0.05),
)
"""Linear albedo of grease, chalk, red ink, blue ink, glue and mould."""


@dataclass(frozen=True)
class Severity:
    """Ranges from which defects of one kind are drawn."""

    area_percent: Range
    """Of the part's area, log-uniform: small defects are as common as large ones."""
    depth_mm: Range = (0.0, 0.0)
    """Material removed, added or displaced."""
    strength: Range = (0.0, 0.0)
    """Fraction of the foreign colour."""


@dataclass(frozen=True)
class Severities:
    """The ranges of each kind of defect, from subtle to obvious."""

    hole: Severity = Severity((0.4, 2.0), depth_mm=(1.5, 9.0))
    crack: Severity = Severity((0.45, 1.6), depth_mm=(0.8, 4.0))
    cut: Severity = Severity((0.6, 4.0))
    bent: Severity = Severity((1.5, 5.5), depth_mm=(0.8, 3.0))
    contamination: Severity = Severity((0.45, 3.0), depth_mm=(0.3, 1.8), strength=(0.25, 0.9))
    colour: Severity = Severity((0.45, 4.5), strength=(0.15, 0.55))


@dataclass(frozen=True)
class Draw:
    """A defect to apply: its drawn severity, and the source of its randomness."""

    cells: int
    depth_mm: float
    strength: float
    inside: Colour
    """Albedo below the surface of the part."""
    mm: float
    """Width of a cell."""
    rng: Generator

    def noise(self, surface: Surface, shortest_mm: float, longest_mm: float) -> Grid:
        """A random texture with waves between two lengths."""
        return noise(self.rng, len(surface.part), shortest_mm / self.mm, longest_mm / self.mm)


def draw(severity: Severity, surface: Surface, inside: Colour, mm: float, rng: Generator) -> Draw:
    """Area, depth and strength of one defect on `surface`, whose cells are `mm` wide."""
    share = np.exp(rng.uniform(*np.log(severity.area_percent))) / 100
    cells = max(1, round(share * np.count_nonzero(surface.part)))
    depth_mm, strength = rng.uniform(*severity.depth_mm), rng.uniform(*severity.strength)
    return Draw(cells, depth_mm, strength, inside, mm, rng)


def hole(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A pit with a ragged outline, or a hole through the part where it is thin."""
    mask, score = _blob(surface, spec, ragged=0.18)
    rim = _rim(score, mask)
    sharp = np.clip((rim - score) / (0.35 * rim), 0, 1)
    dug = surface.height - spec.depth_mm * np.where(mask, sharp, 0).astype(np.float32)
    dug -= np.where(mask, 0.25 * spec.noise(surface, 1.0, 6.0), 0)
    return _opened(surface, np.where(mask, dug, surface.height), mask, spec), mask


def crack(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A winding gap 0.7 to 1.8 mm wide; its length follows from its area."""
    width = spec.rng.uniform(0.7, 1.8)
    length = spec.cells * spec.mm**2 / width
    line = np.ones(surface.part.shape, bool)
    row, column = np.rint(_walk(_centre(surface, spec, 4.0), length, spec)).astype(int).T
    inside = (row >= 0) & (column >= 0) & (row < len(line)) & (column < len(line))
    line[row[inside], column[inside]] = False
    score = ndimage.distance_transform_edt(line).astype(np.float32)
    score *= 1 + 0.2 * spec.noise(surface, 1.5, 10.0)
    mask = _lowest(score, surface.part, spec.cells)
    deep = spec.depth_mm * (1 - 0.7 * score / max(_edge(score, mask), 1.0))
    dug = np.where(mask, surface.height - np.maximum(deep, 0), surface.height)
    # Little light gets out of such a narrow gap.
    dark = replace(spec, inside=tuple(0.3 * value for value in spec.inside))
    return _opened(surface, dug, mask, dark), mask


def cut(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A slice removed from the rim by a slanted, slightly wavy blade.

    The blade is the plane c + slope * x: everything above it is removed; c follows from the area.
    """
    angle = spec.rng.uniform(0, 2 * np.pi)
    slope = spec.rng.uniform(1.2, 6.0)
    line = (np.arange(len(surface.part)) - len(surface.part) / 2) * spec.mm
    outwards = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
    blade = (-slope * outwards + 0.25 * spec.noise(surface, 3.0, 25.0)).astype(np.float32)
    mask = _lowest(blade - surface.height, surface.part, spec.cells)
    left = blade - _edge(blade - surface.height, mask)
    return _opened(surface, np.where(mask, left, surface.height), mask, spec), mask


def bent(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A smooth dent or bulge; the colours do not change."""
    mask, score = _blob(surface, spec, ragged=0.0)
    # The deformation extends beyond the mask, at whose rim it has faded to 7 % of its depth.
    across = np.clip(score / (1.17 * _rim(score, mask)), 0, 1)
    shift = spec.depth_mm * (1 - across**2) ** 2 * spec.rng.choice([-1, 1])
    height = np.where(surface.part, np.maximum(surface.height + shift, 0.5), 0)
    return replace(surface, height=height.astype(np.float32)), mask


def contamination(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A lump of foreign material on the part."""
    mask, score = _blob(surface, spec, ragged=0.35)
    dome = np.where(mask, np.sqrt(np.clip(1 - score / _rim(score, mask), 0, 1)), 0)
    dome = dome * np.clip(0.8 + 0.3 * spec.noise(surface, 1.0, 8.0), 0.2, 1.5)
    height = surface.height + (spec.depth_mm * dome).astype(np.float32)
    albedo = _stained(surface, spec.strength * np.clip(dome / 0.35, 0, 1), spec)
    gloss = np.where(mask, np.float32(spec.rng.uniform(0, 0.4)), surface.gloss)
    return replace(surface, height=height, albedo=albedo, gloss=gloss), mask


def colour(surface: Surface, spec: Draw) -> tuple[Surface, Mask]:
    """A stain, scorch mark or bleached patch: different albedo, same geometry."""
    mask, score = _blob(surface, spec, ragged=0.3)
    rim = _rim(score, mask)
    soft = np.clip((rim - score) / (0.4 * rim), 0, 1)
    share = np.where(mask, spec.strength * (0.25 + 0.75 * soft), 0)
    return replace(surface, albedo=_stained(surface, share, spec)), mask


DEFECTS = {make.__name__: make for make in (bent, colour, contamination, crack, cut, hole)}


def _lowest(score: Grid, part: Mask, count: int) -> Mask:
    """The `count` cells of the part with the lowest score."""
    return part & (score <= np.partition(score[part], count - 1)[count - 1])


def _edge(score: Grid, mask: Mask) -> float:
    """The score at the rim of the defect."""
    return float(score[mask].max())


def _rim(score: Grid, mask: Mask) -> float:
    """The score at the rim of a blob; 1 for a single cell, whose score is 0."""
    return _edge(score, mask) or 1.0


def _blob(surface: Surface, spec: Draw, ragged: float) -> tuple[Mask, Grid]:
    """An elongated patch around a random cell of the part, and its score."""
    radius = np.sqrt(spec.cells / np.pi) * spec.mm
    row, column = _centre(surface, spec, min(0.8 * radius, 6.0))
    angle, stretch = spec.rng.uniform(0, np.pi), spec.rng.uniform(1, 1.5)
    line = np.arange(len(surface.part), dtype=np.float32)
    down, right = (line - np.float32(row))[:, None], (line - np.float32(column))[None, :]
    along = (np.cos(angle) * right + np.sin(angle) * down) / stretch
    across = (np.cos(angle) * down - np.sin(angle) * right) * stretch
    score = np.hypot(along, across).astype(np.float32)
    if ragged:
        score *= np.exp(ragged * spec.noise(surface, 0.8 * radius, 5 * radius))
    return _lowest(score, surface.part, spec.cells), score


def _centre(surface: Surface, spec: Draw, margin_mm: float) -> Float[np.ndarray, " 2"]:
    """A random cell (row, column) of the part, not on a slope and `margin_mm` from its rim."""
    smooth = ndimage.uniform_filter(surface.height, max(3, round(3 / spec.mm)))
    steepness = np.hypot(*np.gradient(smooth, spec.mm))
    width = max(1, round(2 * margin_mm / spec.mm))
    share = ndimage.uniform_filter(surface.part.astype(np.float32), width)
    fit = np.argwhere((share > 0.999) & (steepness < 1.0) & surface.part)
    if not len(fit):
        fit = np.argwhere(surface.part & (share >= share[surface.part].max() - 1e-3))
    return fit[spec.rng.integers(len(fit))].astype(float)


def _walk(start: np.ndarray, length_mm: float, spec: Draw) -> Float[np.ndarray, "N 2"]:
    """Cells along a random curve of this length that turns by about 20 degrees each 2 mm."""
    count = max(2, int(2 * length_mm / spec.mm))
    turns = spec.rng.standard_normal(count) * 0.35 * np.sqrt(spec.mm / 4)
    heading = spec.rng.uniform(0, 2 * np.pi) + np.cumsum(turns)
    steps = 0.5 * np.stack([np.sin(heading), np.cos(heading)], axis=1)
    path = np.cumsum(steps, axis=0)
    return start + path - path[count // 2]


def _stained(surface: Surface, share: Float[np.ndarray, "G G"], spec: Draw) -> Colours:
    """The albedo with this share of a random foreign colour in each cell."""
    foreign = channels(FOREIGN[spec.rng.integers(len(FOREIGN))])
    return surface.albedo + share.astype(np.float32) * (foreign - surface.albedo)


def _opened(surface: Surface, height: np.ndarray, mask: Mask, spec: Draw) -> Surface:
    """`surface` at the new height: inner material where it is opened, backdrop in holes."""
    gone = mask & (height < 0.4)
    bare = channels(spec.inside) * (1 + 0.08 * spec.noise(surface, 0.6, 3.0))
    depth = np.clip((surface.height - height) / 0.6, 0, 1)
    inner = surface.albedo + depth * (bare.clip(0, 1) - surface.albedo)
    albedo = np.where(mask, inner, surface.albedo)
    albedo = np.where(gone, surface.backdrop, albedo).astype(np.float32)
    height = np.where(gone, 0, height).astype(np.float32)
    gloss = np.where(gone, np.float32(0), surface.gloss)
    return replace(surface, height=height, albedo=albedo, gloss=gloss)
