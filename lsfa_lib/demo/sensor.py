"""Light and sensor: the colours and the coordinates of one frame, with the faults of real ones.

Lengths are millimetres, but for the coordinates handed out, which are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from lsfa_lib.demo.rendering import (
    DEMO_LENS,
    Hits,
    Lens,
    Surface,
    View,
    bilinear,
    cell_mm,
    nearest,
    rays,
)

PROJECTOR_SLOPE = 0.27
"""Sideways offset of the pattern projector over its distance: its shadows have no reading."""
WALL_MM_PER_PX = 1.6
"""Where depth changes faster than this between neighbours, at 400 px, readings fail."""


@dataclass(frozen=True)
class Capture:
    """How much camera, light and sensor differ between scans."""

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
    """Least and largest share of pixels without a reading for no visible reason."""


def draw_view(
    size: int, capture: Capture, rng: np.random.Generator, lens: Lens = DEMO_LENS
) -> View:
    """Camera, light and sensor of one scan."""
    tilt = np.tan(np.deg2rad(capture.tilt_deg) * rng.standard_normal(2).clip(-2.5, 2.5))
    swing = np.deg2rad(capture.light_turn_deg) * rng.standard_normal(2).clip(-2, 2)
    turn = np.deg2rad([225, 47]) + swing * (1.0, 0.4)
    light = np.cos(turn[1]) * np.cos(turn[0]), np.cos(turn[1]) * np.sin(turn[0]), np.sin(turn[1])
    gains = 1.08 * np.exp(capture.exposure * (rng.standard_normal() + rng.standard_normal(3) / 3))
    return View(
        size=size,
        distance_mm=lens.distance_mm + capture.distance_mm * rng.uniform(-1, 1),
        tilt=(float(tilt[0]), float(tilt[1])),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=rng.uniform(0.45, 0.55),
        exposure=(float(gains[0]), float(gains[1]), float(gains[2])),
        depth_noise_mm=rng.uniform(*capture.depth_noise_mm),
        missing_share=rng.uniform(*capture.missing_share),
        lens=lens,
    )


def photograph(
    surface: Surface, view: View, hits: Hits, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """The frame's colours: shaded surface, vignetting, a soft lens, exposure, sensor noise."""
    colour = bilinear(_shade(surface, view), hits.cell)
    x, y, _ = np.moveaxis(rays(view.size, view.lens), -1, 0)
    fall = 5 * (view.lens.focal / DEMO_LENS.focal) ** 2
    colour *= (1 - fall * (x**2 + y**2))[..., None] * np.array(view.exposure, np.float32)
    colour = ndimage.gaussian_filter(colour, (0.55, 0.55, 0))
    # Shot noise grows with the root of the light, read noise does not.
    grain = rng.standard_normal(colour.shape, dtype=np.float32)
    colour += grain * (0.003 + 0.008 * np.sqrt(np.maximum(colour, 0)))
    return (np.clip(colour, 0, 1) ** np.float32(1 / 2.2) * 255 + 0.5).astype(np.uint8)


def measure(
    surface: Surface, view: View, hits: Hits, rng: np.random.Generator
) -> Float32[np.ndarray, "H W 3"]:
    """The frame's coordinates in metres; (0, 0, 0) where the sensor gives no reading.

    No reading: in the projector's shadow, most of the time on walls, and at random.
    """
    white = rng.standard_normal(hits.depth.shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(rng.standard_normal(white.shape, dtype=np.float32), 1.5)
    # 0.188 is what a Gaussian of sigma 1.5 leaves of the deviation of white noise.
    error = view.depth_noise_mm * (0.5 * white + 0.87 * smooth / 0.188)
    xyz = rays(view.size, view.lens) * ((hits.depth + error) / 1000)[..., None]

    chance = rng.random(hits.depth.shape, dtype=np.float32)
    jump = ndimage.maximum_filter(hits.depth, 3) - ndimage.minimum_filter(hits.depth, 3)
    wall = jump > 2 * WALL_MM_PER_PX * 400 / view.size
    horizon = _horizon(surface.height, cell_mm(view.size), (1.0, 0.0))
    shadow = nearest(horizon, hits.cell) > 1 / PROJECTOR_SLOPE
    lost = (chance < view.missing_share) | (wall & (chance < 0.85)) | shadow
    xyz[lost] = 0
    return xyz


def _shade(surface: Surface, view: View) -> Float32[np.ndarray, "G G 3"]:
    """Light that leaves each cell towards a camera straight above, linear.

    Lambert under a dome and one soft key light, Blinn-Phong for the gloss.
    """
    mm = cell_mm(view.size)
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
    return surface.albedo * light_in[..., None] + glint[..., None].astype(np.float32)


def _soft_shadow(height: Float32[np.ndarray, "G G"], view: View) -> Float32[np.ndarray, "G G"]:
    """Share of an extended key light that each cell sees, at half resolution."""
    across = float(np.hypot(*view.light[:2]))
    towards = (view.light[0] / across, view.light[1] / across)
    hidden = _horizon(height[::2, ::2], 2 * cell_mm(view.size), towards) * across / view.light[2]
    # The lamp spans from 0.55 to 1.5 of its mean slope: penumbras widen away from the part.
    share = np.clip((1.5 - hidden) / 0.95, 0, 1)
    share *= share * (3 - 2 * share)
    return _enlarge(ndimage.gaussian_filter(share, 1.0), height.shape[0])


def _horizon(
    height: Float32[np.ndarray, "G G"], mm: float, towards: tuple[float, float]
) -> Float32[np.ndarray, "G G"]:
    """Slope under which each cell of width `mm` sees the highest thing `towards` (right, down)."""
    slope = np.zeros_like(height)
    distance, reach = 1.5, min(float(height.max()) * 4 / mm, height.shape[0] / 2)
    while distance < reach:
        down, right = round(distance * towards[1]), round(distance * towards[0])
        ahead = np.roll(height, (-down, -right), (0, 1)) - height
        np.maximum(slope, ahead / np.float32(distance * mm), out=slope)
        distance += max(1.0, 0.08 * distance)
    return slope


def _openness(height: Float32[np.ndarray, "G G"], mm: float) -> Float32[np.ndarray, "G G"]:
    """Share of the sky each cell sees, from how far its surroundings rise above it."""
    coarse = height[::2, ::2]
    sky = np.ones_like(coarse)
    for radius_mm, weight in ((1.5, 0.45), (6.0, 0.35), (16.0, 0.25)):
        width = max(3, int(radius_mm / mm))
        around = ndimage.uniform_filter(ndimage.uniform_filter(coarse, width), width)
        sky -= weight * np.clip((around - coarse) / radius_mm, 0, 1)
    return _enlarge(np.clip(sky, 0.1, 1), height.shape[0])


def _enlarge(coarse: Float32[np.ndarray, "K K"], side: int) -> Float32[np.ndarray, "G G"]:
    """`coarse` at twice the resolution, the new cells halfway between their neighbours."""
    for axis in (0, 1):
        between = (coarse + np.roll(coarse, -1, axis)) / 2
        shape = [n * (2 if k == axis else 1) for k, n in enumerate(coarse.shape)]
        coarse = np.stack([coarse, between], axis + 1).reshape(shape)
    return np.ascontiguousarray(coarse[:side, :side])
