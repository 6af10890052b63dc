"""Four products as height fields with colours: biscuit, orange, seal, spindle. Lengths in mm.

No two parts are alike: `Variation` sets how much size, outline, colour, texture and pose differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from lsfa_lib.demo import rendering
from lsfa_lib.demo.rendering import Colour, Colours, Grid, Surface, channels

Part = tuple[np.ndarray, np.ndarray]
"""Height, not above 0 outside the part, and albedo."""


@dataclass(frozen=True)
class Variation:
    """How much good parts differ from each other."""

    shift_mm: float = 2.0
    """Largest offset of the part from the middle of the frame, each axis."""
    scale: float = 0.015
    """Standard deviation of the size, relative."""
    shade: float = 0.08
    """Standard deviation of the brightness of the colour, relative."""
    texture: float = 1.0
    """Amplitude of bumps, pores, blotches and marks, 1 as designed."""
    warp_mm: float = 0.0
    """Standard deviation of a smooth deformation of the outline, each axis."""
    backdrop: float = 1.0
    """Contrast of the backdrop's texture, 1 as designed."""


@dataclass(frozen=True)
class Pose:
    """Coordinates of every cell in the part's frame, and parameters of its random textures."""

    along: Grid
    across: Grid
    scale: float
    texture: float
    cell: float
    """Width of a cell, mm."""

    @property
    def polar(self) -> tuple[Grid, Grid]:
        """Radius in mm and angle of every cell."""
        return np.hypot(self.along, self.across), np.arctan2(self.across, self.along)

    def noise(
        self, rng: Generator, shortest_mm: float, longest_mm: float, slope: float = 1.0
    ) -> Grid:
        """A random texture of deviation `texture` with waves between two lengths."""
        waves = shortest_mm / self.cell, longest_mm / self.cell
        return np.float32(self.texture) * rendering.noise(rng, len(self.along), *waves, slope)


@dataclass(frozen=True)
class Product:
    """The recipe of one category."""

    make: Callable[[Pose, Generator], Part]
    turn_deg: float
    """Parts are rotated by up to this angle either way."""
    inside: Colour
    """Albedo of the material where it is broken or cut."""
    backdrop: Colour
    grain: float
    """Contrast of the backdrop's texture."""
    gloss: float


def make_part(product: Product, size: int, variation: Variation, rng: Generator) -> Surface:
    """One good part on its backdrop, for a frame of `size` pixels."""
    right, down = rendering.grid_axes(size)
    angle = np.deg2rad(rng.uniform(-product.turn_deg, product.turn_deg))
    shift = rng.uniform(-variation.shift_mm, variation.shift_mm, 2)
    right, down = right - np.float32(shift[0]), down - np.float32(shift[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    scale = 1 + variation.scale * float(np.clip(rng.standard_normal(), -2, 2))
    shade = 1 + variation.shade * float(np.clip(rng.standard_normal(), -2, 2))
    along, across = cos * right + sin * down, cos * down - sin * right
    if variation.warp_mm:
        waves = 40 / rendering.cell_mm(size), 140 / rendering.cell_mm(size)
        along, across = (
            line + np.float32(variation.warp_mm) * rendering.noise(rng, len(line), *waves)
            for line in (along, across)
        )
    pose = Pose(along, across, scale, variation.texture, rendering.cell_mm(size))
    height, albedo = product.make(pose, rng)
    height, albedo = np.maximum(height, 0).astype(np.float32), albedo.astype(np.float32)
    fibres = 0.7 * pose.noise(rng, 0.6, 2.5, 0.5) + 0.5 * pose.noise(rng, 8.0, 120.0)
    contrast = np.clip(1 + variation.backdrop * product.grain * fibres, 0.2, 2)
    backdrop = channels(product.backdrop) * contrast
    part = height > 0
    albedo = np.where(part, np.clip(albedo * np.float32(shade), 0.005, 1), backdrop)
    gloss = np.where(part, np.float32(product.gloss), np.float32(0))
    return Surface(height, albedo, gloss, backdrop, part)


def biscuit(pose: Pose, rng: Generator) -> Part:
    """A scalloped, docked biscuit, 92 mm wide and 14 mm high, baked darker at the rim."""
    radius, angle = pose.polar
    scallops = 0.8 * np.cos(28 * angle)
    wobble = sum(
        pose.texture * 0.5 * rng.standard_normal() * np.cos(k * angle + rng.uniform(0, 6.28))
        for k in (2, 3, 5)
    )
    inset = (46 * pose.scale + scallops + wobble - radius).astype(np.float32)
    rise = np.sqrt(np.clip(1 - (1 - np.clip(inset / 6, 0, 1)) ** 2, 0, 1))
    body = 12.5 + 1.5 * np.cos(np.clip(radius / 46, 0, 1.2) * 1.5)
    bumps = 0.28 * pose.noise(rng, 6.0, 30.0) + 0.08 * pose.noise(rng, 0.8, 4.0, 0.3)
    groove = 0.6 * np.exp(-(((radius - 38 * pose.scale) / 1.1) ** 2))
    holes = _dots(radius, angle, [(6, 14.0), (12, 28.0)], 1.5)
    height = np.where(inset > 0, rise * (body + bumps - groove) - 3.5 * holes * rise, 0)

    pores = np.clip(pose.noise(rng, 0.7, 2.0, 0.2) - 1.5, 0, 2)
    bake = 0.34 + 0.42 * np.exp(-np.clip(inset, 0, 50) / 5) + 0.12 * pose.noise(rng, 5.0, 60.0)
    bake = np.clip(bake + 0.10 * bumps + 0.1 * rng.standard_normal() + 0.15 * holes, 0, 1)
    albedo = blend((0.72, 0.44, 0.18), (0.30, 0.12, 0.035), bake)
    grit = 1 + 0.06 * pose.noise(rng, 0.6, 1.5, 0.0) - 0.22 * pores
    return height, albedo * grit


def orange(pose: Pose, rng: Generator) -> Part:
    """An orange of 80 mm with pitted peel and its stem end up; colour and blotches vary."""
    squash = 1 + 0.03 * float(np.clip(rng.standard_normal(), -2, 2))
    radius = np.hypot(pose.along * squash, pose.across / squash)
    lumps = 0.5 * pose.noise(rng, 25.0, 90.0)
    big = 40 * pose.scale
    ball = np.sqrt(np.clip(1 - (radius / big) ** 2, 0, 1))
    pits = pose.noise(rng, 1.5, 2.8, 0.0)
    peel = -0.10 * np.clip(pits, 0, 3) + 0.02 * pose.noise(rng, 0.6, 1.5, 0.0)
    height = np.where(ball > 0.03, big * (0.92 + 0.92 * ball) + (lumps + peel) * ball, 0)

    stem = rng.normal(0, 6, 2).tolist()
    from_stem = np.hypot(pose.along - stem[0], pose.across - stem[1])
    around = np.arctan2(pose.across - stem[1], pose.along - stem[0])
    star = (3.0 + 0.7 * np.cos(5 * around + rng.uniform(0, 6.28)) - from_stem) / 0.5
    star = np.clip(star, 0, 1)
    height -= np.where(height > 0, 1.8 * np.exp(-((from_stem / 5.5) ** 2)) - 0.7 * star, 0)
    ripe = np.clip(0.45 + 0.16 * pose.noise(rng, 12.0, 90.0) + 0.18 * rng.standard_normal(), 0, 1)
    albedo = blend((0.92, 0.46, 0.03), (0.86, 0.24, 0.015), ripe)
    scars = np.clip(pose.noise(rng, 1.5, 18.0, 0.8) - 2.2, 0, 1)
    albedo = albedo * (1 - 0.05 * np.clip(pits, 0, 3)) * (1 - 0.45 * scars)
    albedo += star * (channels((0.16, 0.17, 0.05)) - albedo)
    return height, albedo


def seal(pose: Pose, rng: Generator) -> Part:
    """A black rubber shaft seal, 98 mm wide: outer bead, groove, ribbed inner lip; dusty."""
    radius, angle = pose.polar
    middle, half = 37.0 * pose.scale, 11.5
    offset = (radius - middle) / half
    arch = np.sqrt(np.clip(1 - np.abs(offset) ** 3, 0, 1))
    groove = 2.0 * np.exp(-(((radius - middle - 1.5) / 1.3) ** 2))
    ribs = 0.5 * (offset < -0.15) * np.clip(np.cos(40 * angle) * 3, -1, 1) * np.clip(-offset, 0, 1)
    step = 1.2 * np.clip((-offset - 0.1) / 0.08, 0, 1)
    gate = angle - rng.uniform(-3.14, 3.14)
    mark = 0.5 * np.exp(-((radius - middle - 6) ** 2 + (radius * np.sin(gate)) ** 2) / 2.5)
    skin = 0.05 * pose.noise(rng, 1.0, 6.0, 0.3) + 0.15 * pose.noise(rng, 20.0, 90.0)
    body = 17.5 - groove - step + ribs + mark * (np.cos(gate) > 0) + skin
    height = np.where(arch > 0.05, body * arch, 0)

    dust = 0.35 + 0.3 * pose.noise(rng, 1.5, 40.0, 0.9) + 0.15 * rng.standard_normal()
    dust = np.clip(dust, 0, 1)
    specks = np.clip(pose.noise(rng, 0.7, 1.6, 0.0) - 2.7, 0, 1)
    albedo = blend((0.022, 0.022, 0.025), (0.062, 0.060, 0.057), dust)
    albedo += 0.25 * specks
    return height, albedo


def spindle(pose: Pose, rng: Generator) -> Part:
    """A turned steel spindle, 98 mm long: collar, grooves, knurled grip, chamfered ends."""
    at = np.clip(pose.along / pose.scale, -60, 60)
    profile = _turned(at, 0.25 * np.clip(rng.standard_normal(4), -2, 2))
    sideways = np.clip(pose.across / np.maximum(profile, 1), -1, 1)
    around = np.arcsin(sideways) * profile
    grip = ((at > 7) & (at < 29)).astype(np.float32)
    spin = rng.uniform(0, 6.28)
    threads = (np.sin(1.1 * (at + around) + spin), np.sin(1.1 * (at - around) - spin))
    knurl = 0.22 * grip * (np.abs(threads[0]) + np.abs(threads[1]))
    marks = pose.texture * stripes(rng, at)
    section = np.sqrt(np.clip(1 - sideways**2, 0, 1))
    bar = 22 + (profile + knurl + 0.02 * marks) * section
    height = np.where((section > 0.05) & (profile > 0), bar, 0)

    tint = channels((0.50, 0.50, 0.49)) * channels(1 + 0.012 * rng.standard_normal(3))
    stain = 1 + 0.09 * pose.noise(rng, 6.0, 50.0) + 0.10 * marks
    scratch = 0.15 * np.clip(pose.noise(rng, 0.6, 6.0, 0.3) - 2.4, 0, 1)
    albedo = tint * (0.62 * stain - scratch - 0.13 * knurl)
    return height, albedo


PRODUCTS = {
    "biscuit": Product(biscuit, 180.0, (0.80, 0.62, 0.36), (0.16, 0.19, 0.23), 0.10, 0.03),
    "orange": Product(orange, 180.0, (0.90, 0.62, 0.20), (0.30, 0.30, 0.29), 0.06, 0.16),
    "seal": Product(seal, 180.0, (0.030, 0.030, 0.032), (0.52, 0.50, 0.46), 0.05, 0.28),
    "spindle": Product(spindle, 14.0, (0.72, 0.72, 0.70), (0.055, 0.085, 0.075), 0.16, 0.75),
}


def _turned(at: Grid, jitter: np.ndarray) -> Grid:
    """Radius of the spindle along its axis: ends, body, collar, grooves, chamfers."""
    radius = np.where(np.abs(at) < 36 + jitter[0], np.float32(19), np.float32(14.5))
    radius = np.where(np.abs(at + 6 + jitter[1]) < 5, np.float32(22), radius)
    for position in (-28 + jitter[2], -22 + jitter[2], 33 + jitter[3]):
        radius = np.where(np.abs(at - position) < 1.2, np.float32(17.3), radius)
    radius = np.minimum(radius, 11.5 + np.clip(49 - np.abs(at), 0, 20))
    return np.where(np.abs(at) < 49, radius, 0).astype(np.float32)


def _dots(radius: Grid, angle: Grid, rings: list[tuple[int, float]], width: float) -> Grid:
    """1 in the middle of small round dots, evenly spaced on rings of (count, radius)."""
    dots = np.zeros_like(radius)
    for count, ring in rings:
        sector = 2 * np.pi / count
        beside = (np.mod(angle + sector / 2, sector) - sector / 2) * ring
        dots += np.exp(-(((beside**2 + (radius - ring) ** 2) / width**2) ** 2))
    return dots


def stripes(rng: Generator, at: Grid) -> Grid:
    """Turning marks: a random function of the position along the axis alone."""
    line = ndimage.gaussian_filter1d(rng.standard_normal(480), 0.7)
    return np.interp(at, np.linspace(-60, 60, 480), line / line.std()).astype(np.float32)


def blend(first: Colour, second: Colour, share: Grid) -> Colours:
    """Colours from `first` (share 0) to `second` (share 1)."""
    a, b = channels(first), channels(second)
    return a + share.astype(np.float32) * (b - a)
