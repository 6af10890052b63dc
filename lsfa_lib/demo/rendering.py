"""A height field seen by a pinhole camera: the point that each pixel sees.

Lengths are millimetres. The surface is a height above a backdrop plane on a square grid of cells.
The camera looks down from where it sees `FIELD_MM` of the backdrop, 0.45 m for the demo's lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from numpy.random import Generator
from scipy import fft

from lsfa_lib.records import Points

Grid = Float32[np.ndarray, "G G"]
Colours = Float32[np.ndarray, "3 G G"]
Mask = Bool[np.ndarray, "G G"]
Cells = Float32[np.ndarray, "2 N"]
Colour = tuple[float, ...]
"""Red, green and blue, linear."""
Direction = tuple[float, ...]
"""Unit vector: right, down, up."""

FIELD_MM = 125.0
"""Width of the backdrop the camera sees."""
GRID_MM = 142.0
"""Width of the surface: the frame and the margin that tilt and shift need."""


@dataclass(frozen=True)
class Lens:
    """A pinhole camera, independent of the number of pixels."""

    focal: float
    """Focal length over the width of the frame."""
    shift_px: float = 0.0
    """Principal point, right of and below the middle between the frame's outermost pixels."""

    @property
    def distance_mm(self) -> float:
        """Distance at which it sees `FIELD_MM` of the backdrop."""
        return FIELD_MM * self.focal


DEMO_LENS = Lens(3.6)


@dataclass(frozen=True)
class Surface:
    """The part and its backdrop, cell by cell."""

    height: Grid
    """Above the backdrop plane, mm; 0 outside the part."""
    albedo: Colours
    """Linear reflectance."""
    gloss: Grid
    """Strength of the specular reflection; 0 for chalk."""
    backdrop: Colours
    """Albedo of the plane below the part, which is visible where material is missing."""
    part: Mask


@dataclass(frozen=True)
class View:
    """Camera, light and sensor of one frame of `size` x `size` pixels."""

    size: int
    distance_mm: float
    tilt: tuple[float, ...]
    """Slopes of the backdrop plane along x and y."""
    light: Direction
    """Direction to the key light."""
    ambient: float
    """Fraction of the light that comes from all directions."""
    exposure: Colour
    """Gain of each channel."""
    depth_noise_mm: float
    missing_share: float
    """Fraction of pixels without a reading for no visible reason."""
    lens: Lens = DEMO_LENS
    focus_px: float = 0.55
    """Standard deviation of the lens blur."""
    flying_share: float = 0.0
    """Fraction of the pixels at walls whose reading lies between front and back."""


@dataclass(frozen=True)
class Hits:
    """The point where the ray of each pixel meets the surface."""

    cell: Float32[np.ndarray, "2 H W"]
    """Row and column on the grid."""
    depth: Float32[np.ndarray, "H W"]
    """Along the optical axis, mm."""


def channels(colour: Colour | np.ndarray) -> Float32[np.ndarray, "3 1 1"]:
    """A colour that broadcasts over cells or pixels."""
    return np.array(colour, np.float32)[:, None, None]


def cell_mm(size: int) -> float:
    """Width of a grid cell, slightly smaller than a pixel of a frame of `size`."""
    return 0.92 * FIELD_MM / size


@lru_cache(maxsize=2)
def grid_axes(size: int) -> list[Grid]:
    """Right and down coordinates of the cells, mm, (0, 0) in the middle."""
    side = fft.next_fast_len(int(GRID_MM / cell_mm(size)), real=True)
    line = ((np.arange(side) - (side - 1) / 2) * cell_mm(size)).astype(np.float32)
    return list(np.meshgrid(line, line))


def camera_matrix(size: int, lens: Lens = DEMO_LENS) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a camera for a frame of `size` pixels."""
    focal, centre = size * lens.distance_mm / FIELD_MM, (size - 1) / 2 + lens.shift_px
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]])


@lru_cache(maxsize=2)
def rays(size: int, lens: Lens = DEMO_LENS) -> Points:
    """Direction of each pixel, z = 1."""
    camera = camera_matrix(size, lens)
    line = ((np.arange(size) - camera[0, 2]) / camera[0, 0]).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def noise(rng: Generator, side: int, shortest: float, longest: float, slope: float = 1.0) -> Grid:
    """A random texture of mean 0 and deviation 1 with waves of `shortest` to `longest` cells.

    White noise filtered in Fourier space: the amplitude falls as frequency^-slope in the band.
    """
    band = _band(side, max(shortest, 2.0), max(longest, 2.5), slope)
    spectrum = rng.standard_normal((*band.shape, 2), dtype=np.float32)
    texture = fft.irfft2(spectrum.view(np.complex64)[..., 0] * band, s=(side, side))
    return (texture / max(float(texture.std()), 1e-12)).astype(np.float32)


@lru_cache(maxsize=32)
def _band(side: int, shortest: float, longest: float, slope: float) -> Float32[np.ndarray, "G F"]:
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1.0
    inside = (frequency <= 1 / shortest) & (frequency >= 1 / longest)
    return np.where(inside, frequency ** -(slope + 0.5), 0).astype(np.float32)


def cast(surface: Surface, view: View, region: Mask | None = None) -> Hits:
    """First intersection of each pixel's ray with the surface, occlusion included.

    A ray at height t is over the cell base + t drift at depth d0 + t d1. t rises in steps of about
    1.5 cells sideways; the last step below the surface is the first surface the ray meets. The
    interval around it is halved five times and then interpolated. With a `region`, only rays that
    pass over the box around it are followed; the others get the backdrop.
    """
    height = surface.height
    base, drift, (depth0, depth1) = _ray_lines(height.shape[0], view)
    top = float(height.max())
    ray = np.arange(depth0.size)
    base_r, drift_r = base.reshape(2, -1), drift.reshape(2, -1)
    if region is not None:
        ray = np.flatnonzero(_passes_over(region, base_r, base_r + np.float32(top) * drift_r))
        base_r, drift_r = base_r[:, ray], drift_r[:, ray]
    steps = int(np.clip(np.ceil(top * np.abs(drift).max() / 1.5), 4, 40))
    low = np.full(len(ray), -1, np.float32)
    for level in np.linspace(0, top, steps, endpoint=False, dtype=np.float32)[1:]:
        low[nearest(height, base_r + level * drift_r) >= level] = level
    met = (low > 0) | (nearest(height, base_r) > 0)
    ray, low, base_r, drift_r = ray[met], low[met], base_r[:, met], drift_r[:, met]
    # The steps used complete cells: the intersection may be one step before or after.
    step = np.float32(top / steps)
    low, high = np.maximum(low - step, 0), np.maximum(low, 0) + 2 * step
    for _ in range(5):
        middle = (low + high) / 2
        below = bilinear(height, base_r + middle * drift_r) >= middle
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    over = bilinear(height, base_r + low * drift_r) - low
    under = high - bilinear(height, base_r + high * drift_r)
    t = np.zeros_like(depth0)
    t.flat[ray] = low + (high - low) * np.clip(over / np.maximum(over + under, 1e-6), 0, 1)
    return Hits(base + t * drift, depth0 + t * depth1)


def _passes_over(region: Mask, start: Cells, end: Cells) -> Bool[np.ndarray, " N"]:
    """Whether each ray passes over the box around `region`, with a margin of one cell."""
    rows, columns = (np.flatnonzero(region.any(axis))[[0, -1]] for axis in (1, 0))
    first, last = np.stack([rows, columns], axis=1)[..., None]
    inside = (np.minimum(start, end) <= last + 1) & (np.maximum(start, end) >= first - 1)
    return inside.all(axis=0)


def bilinear(
    field: Float32[np.ndarray, "*channels G G"], cell: Float32[np.ndarray, axes * where]
) -> Float32[np.ndarray, "*channels *where"]:
    """`field` at fractional (row, column), interpolated between its four cells."""
    side = field.shape[-1]
    corner = np.clip(cell.astype(np.int32), 0, side - 2)
    down, right = cell - corner
    at = corner[0] * side + corner[1]
    flat = field.reshape(*field.shape[:-2], -1)
    a, b, c, d = (flat.take(at + step, axis=-1) for step in (0, 1, side, side + 1))
    a += (b - a) * right
    c += (d - c) * right
    a += (c - a) * down
    return a


def nearest(
    field: Shaped[np.ndarray, "G G"], cell: Float32[np.ndarray, axes * where]
) -> Shaped[np.ndarray, " *where"]:
    """`field` of the cell at fractional (row, column)."""
    row, column = (cell + 0.5).astype(np.int32)
    return field.take(row * field.shape[1] + column)


def _ray_lines(side: int, view: View) -> tuple[Float32[np.ndarray, "2 H W"], ...]:
    """Cells (base, drift) and depths (at 0, per mm) of every ray as lines in the height."""
    slope_x, slope_y = view.tilt
    normal = np.array([slope_x, slope_y, -1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    right = np.array([1, 0, slope_x]) / np.sqrt(1 + slope_x**2)
    axes = np.stack([np.cross(right, normal), right])
    origin = np.array([0, 0, view.distance_mm])
    direction = rays(view.size, view.lens)
    fall = direction @ normal.astype(np.float32)
    drift = np.moveaxis(direction @ axes.T.astype(np.float32), -1, 0) / fall
    base = drift * np.float32(origin @ normal) - (axes @ origin).astype(np.float32)[:, None, None]
    depth = np.stack([np.float32(origin @ normal) / fall, 1 / fall])
    mm = np.float32(cell_mm(view.size))
    return base / mm + np.float32((side - 1) / 2), drift / mm, depth
