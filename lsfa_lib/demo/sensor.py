"""Light and sensor: colours and coordinates of one frame, with the flaws of real sensors.

Lengths are millimetres, except for the returned coordinates, which are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy.random import Generator
from scipy import ndimage

from lsfa_lib.demo import rendering
from lsfa_lib.demo.rendering import DEMO_LENS, Colours, Grid, Hits, Lens, Surface, View
from lsfa_lib.records import Points, Rgb

PROJECTOR_SLOPE = 0.27
"""Sideways offset of the pattern projector over its distance; its shadows have no reading."""
WALL_MM_PER_PX = 1.6
"""Readings fail where depth changes faster than this between neighbours, at 400 px."""


@dataclass(frozen=True)
class Capture:
    """How much camera, light and sensor vary between scans."""

    tilt_deg: float = 1.2
    """Standard deviation of the backdrop's tilt, each axis."""
    distance_mm: float = 3.0
    """Largest change of the camera's distance, either way."""
    light_turn_deg: float = 12.0
    """Standard deviation of the key light's direction."""
    exposure: float = 0.05
    """Standard deviation of the brightness, relative; of the colour balance a third of it."""
    depth_noise_mm: tuple[float, float] = (0.08, 0.20)
    """Least and largest standard deviation of a depth reading."""
    missing_share: tuple[float, float] = (0.001, 0.006)
    """Least and largest fraction of pixels without a reading for no visible reason."""
    focus_px: tuple[float, float] = (0.55, 0.55)
    """Least and largest standard deviation of the lens blur."""
    flying_share: float = 0.0
    """Fraction of the pixels at walls whose reading lies between front and back."""


def draw_view(size: int, capture: Capture, rng: Generator, lens: Lens = DEMO_LENS) -> View:
    """Camera, light and sensor of one scan."""
    tilt = np.tan(np.deg2rad(capture.tilt_deg) * rng.standard_normal(2).clip(-2.5, 2.5))
    swing = np.deg2rad(capture.light_turn_deg) * rng.standard_normal(2).clip(-2, 2)
    turn = np.deg2rad([225, 47]) + swing * (1.0, 0.4)
    light = np.cos(turn[1]) * np.cos(turn[0]), np.cos(turn[1]) * np.sin(turn[0]), np.sin(turn[1])
    gains = 1.08 * np.exp(capture.exposure * (rng.standard_normal() + rng.standard_normal(3) / 3))
    return View(
        size=size,
        distance_mm=lens.distance_mm + capture.distance_mm * rng.uniform(-1, 1),
        tilt=tuple(tilt.tolist()),
        light=tuple(map(float, light)),
        ambient=rng.uniform(0.45, 0.55),
        exposure=tuple(gains.tolist()),
        depth_noise_mm=rng.uniform(*capture.depth_noise_mm),
        missing_share=rng.uniform(*capture.missing_share),
        lens=lens,
        focus_px=rng.uniform(*capture.focus_px),
        flying_share=capture.flying_share,
    )


def photograph(surface: Surface, view: View, hits: Hits, rng: Generator) -> Rgb:
    """Colours of the frame: shaded surface, vignetting, lens blur, exposure and sensor noise."""
    shaded = _shade(surface, view)
    # In strips, whose temporary arrays fit into the processor's cache.
    strips = [rendering.bilinear(shaded, cell) for cell in np.array_split(hits.cell, 8, axis=1)]
    colour = np.concatenate(strips, axis=1)
    x, y, _ = np.moveaxis(rendering.rays(view.size, view.lens), -1, 0)
    fall = 5 * (view.lens.focal / DEMO_LENS.focal) ** 2
    colour *= (1 - fall * (x**2 + y**2)) * rendering.channels(view.exposure)
    blurred = ndimage.gaussian_filter(colour, (0, view.focus_px, view.focus_px))
    colour = np.ascontiguousarray(np.moveaxis(blurred, 0, -1))
    # Shot noise grows with the square root of the light, read noise does not.
    grain = rng.standard_normal(colour.shape, dtype=np.float32)
    colour += grain * (0.003 + 0.008 * np.sqrt(np.maximum(colour, 0)))
    return (np.clip(colour, 0, 1) ** np.float32(1 / 2.2) * 255 + 0.5).astype(np.uint8)


def measure(surface: Surface, view: View, hits: Hits, rng: Generator) -> Points:
    """Coordinates of the frame in metres; (0, 0, 0) without a reading.

    Readings are missing in the projector's shadow, on most wall pixels and at random; flying ones
    lie between the front and the back of a wall.
    """
    white = rng.standard_normal(hits.depth.shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(rng.standard_normal(white.shape, dtype=np.float32), 1.5)
    # A Gaussian of sigma 1.5 reduces the deviation of white noise to 0.188.
    error = view.depth_noise_mm * (0.5 * white + 0.87 * smooth / 0.188)
    rays = rendering.rays(view.size, view.lens)
    xyz = rays * ((hits.depth + error) / 1000)[..., None]

    chance = rng.random(hits.depth.shape, dtype=np.float32)
    front, back = ndimage.minimum_filter(hits.depth, 3), ndimage.maximum_filter(hits.depth, 3)
    wall = back - front > 2 * WALL_MM_PER_PX * 400 / view.size
    rows = surface.part.any(axis=1)  # The projector's shadows run along the rows of the grid.
    horizon = np.zeros_like(surface.height)
    horizon[rows] = _horizon(surface.height[rows], rendering.cell_mm(view.size), (1.0, 0.0))
    shadow = rendering.nearest(horizon, hits.cell) > 1 / PROJECTOR_SLOPE
    lost = (chance < view.missing_share) | (wall & (chance < 0.85)) | shadow
    xyz[lost] = 0
    if view.flying_share:
        flying = wall & ~shadow & (rng.random(wall.shape, dtype=np.float32) < view.flying_share)
        between = front + (back - front) * rng.random(wall.shape, dtype=np.float32)
        xyz[flying] = (rays * (between / 1000)[..., None])[flying]
    return xyz


def _shade(surface: Surface, view: View) -> Colours:
    """Linear light from each cell towards a camera straight above.

    Lambertian reflection of a dome and one soft key light, Blinn-Phong for the gloss.
    """
    mm = rendering.cell_mm(view.size)
    slope_down, slope_right = np.gradient(surface.height, mm)
    up = 1 / np.sqrt(1 + slope_down**2 + slope_right**2)
    right, down, ahead = view.light
    facing = np.clip((ahead - right * slope_right - down * slope_down) * up, 0, 1)
    half = float(np.sqrt(2 + 2 * ahead))
    mirror = (1 + ahead - right * slope_right - down * slope_down) * up / half
    mirror = np.clip(mirror, 0, 1)
    key = facing * _soft_shadow(surface.height, view)
    dome = _openness(surface.height, mm) * (0.55 + 0.45 * up)
    glint = surface.gloss * (0.5 * mirror**30 + 0.15 * mirror**6) * (0.25 + 0.75 * key)
    light_in = view.ambient * dome + (1 - view.ambient) * 1.25 * key
    return surface.albedo * light_in + glint.astype(np.float32)


def _soft_shadow(height: Grid, view: View) -> Grid:
    """Fraction of an extended key light that each cell sees, computed at half resolution."""
    right, down, up = view.light
    across = float(np.hypot(right, down))
    towards = (right / across, down / across)
    half = np.ascontiguousarray(height[::2, ::2])
    hidden = _horizon(half, 2 * rendering.cell_mm(view.size), towards) * across / up
    # The lamp spans from 0.55 to 1.5 of its mean slope: penumbras widen away from the part.
    share = np.clip((1.5 - hidden) / 0.95, 0, 1)
    share *= share * (3 - 2 * share)
    return _enlarge(ndimage.gaussian_filter(share, 1.0), height.shape[0])


def _horizon(
    height: Float32[np.ndarray, "R G"], mm: float, towards: tuple[float, float]
) -> Float32[np.ndarray, "R G"]:
    """Steepest slope from each cell of width `mm` to any other cell `towards` (right, down)."""
    slope = np.zeros_like(height)
    distance, reach = 1.5, min(float(height.max(initial=0)) * 4 / mm, height.shape[1] / 2)
    while distance < reach:
        down, right = round(distance * towards[1]), round(distance * towards[0])
        ahead = np.roll(height, (-down, -right), (0, 1)) - height
        np.maximum(slope, ahead / np.float32(distance * mm), out=slope)
        distance += max(1.0, 0.08 * distance)
    return slope


def _openness(height: Grid, mm: float) -> Grid:
    """Fraction of the sky each cell sees, from how far its surroundings rise above it."""
    coarse = height[::2, ::2]
    sky = np.ones_like(coarse)
    for radius_mm, weight in ((1.5, 0.45), (6.0, 0.35), (16.0, 0.25)):
        width = max(3, int(radius_mm / mm))
        around = ndimage.uniform_filter(ndimage.uniform_filter(coarse, width), width)
        sky -= weight * np.clip((around - coarse) / radius_mm, 0, 1)
    return _enlarge(np.clip(sky, 0.1, 1), height.shape[0])


def _enlarge(coarse: Float32[np.ndarray, "K K"], side: int) -> Grid:
    """`coarse` at twice the resolution, the new cells halfway between their neighbours."""
    for axis in (0, 1):
        between = (coarse + np.roll(coarse, -1, axis)) / 2
        shape = [n * (2 if k == axis else 1) for k, n in enumerate(coarse.shape)]
        coarse = np.stack([coarse, between], axis + 1).reshape(shape)
    return np.ascontiguousarray(coarse[:side, :side])
