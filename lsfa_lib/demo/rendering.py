"""A height field seen by a pinhole camera: which point of it each pixel looks at.

Lengths are millimetres. The surface is a height above a
backdrop plane on a square grid of cells; the camera looks down on it from where it sees
`FIELD_MM` of it: about 0.45 m for the demo's own lens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from scipy import fft

FIELD_MM = 125.0
"""Width of the backdrop the camera sees."""
GRID_MM = 142.0
"""Width of the surface: the frame and the margin that tilt and shift need."""


@dataclass(frozen=True)
class Lens:
    """A pinhole camera, whatever the number of its pixels."""

    focal: float
    """Focal length over the frame's width."""
    shift_px: float = 0.0
    """Principal point, right of and below the middle between the frame's outermost pixels."""

    @property
    def distance_mm(self) -> float:
        """From where it sees `FIELD_MM` of the backdrop."""
        return FIELD_MM * self.focal


DEMO_LENS = Lens(3.6)
DISTANCE_MM = DEMO_LENS.distance_mm


@dataclass(frozen=True)
class Surface:
    """What lies in front of the camera, cell by cell."""

    height: Float32[np.ndarray, "G G"]
    """Above the backdrop plane, mm; 0 beside the part."""
    albedo: Float32[np.ndarray, "G G 3"]
    """Linear reflectance, red green blue."""
    gloss: Float32[np.ndarray, "G G"]
    """Strength of the mirror-like reflection, 0 for chalk."""
    backdrop: Float32[np.ndarray, "G G 3"]
    """Albedo of the plane below, which shows where material is gone."""
    part: Bool[np.ndarray, "G G"]


@dataclass(frozen=True)
class View:
    """Camera, light and sensor of one frame."""

    size: int
    """Pixels along each side."""
    distance_mm: float
    tilt: tuple[float, float]
    """Slopes of the backdrop plane along x and y."""
    light: tuple[float, float, float]
    """Unit vector towards the key light: right, down, up."""
    ambient: float
    """Share of the light that comes from everywhere."""
    exposure: tuple[float, float, float]
    """Gain of red, green and blue."""
    depth_noise_mm: float
    missing_share: float
    """Share of pixels without a reading for no visible reason."""
    lens: Lens = DEMO_LENS


@dataclass(frozen=True)
class Hits:
    """Where the ray of each pixel meets the surface."""

    cell: Float32[np.ndarray, "2 H W"]
    """Row and column on the grid."""
    depth: Float32[np.ndarray, "H W"]
    """Along the optical axis, mm."""


def cell_mm(size: int) -> float:
    """Width of a grid cell, a little finer than the pixels of a frame of `size`."""
    return 0.92 * FIELD_MM / size


def grid_axes(size: int) -> tuple[Float32[np.ndarray, "G G"], Float32[np.ndarray, "G G"]]:
    """Right and down coordinates of the cells, mm, (0, 0) in the middle."""
    side = fft.next_fast_len(int(GRID_MM / cell_mm(size)), real=True)
    line = ((np.arange(side) - (side - 1) / 2) * cell_mm(size)).astype(np.float32)
    right, down = np.meshgrid(line, line)
    return right, down


def camera_matrix(size: int, lens: Lens = DEMO_LENS) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of a camera for a frame of `size` pixels."""
    focal, centre = size * lens.distance_mm / FIELD_MM, (size - 1) / 2 + lens.shift_px
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]])


@lru_cache(maxsize=2)
def rays(size: int, lens: Lens = DEMO_LENS) -> Float32[np.ndarray, "H W 3"]:
    """Direction of each pixel, z = 1."""
    camera = camera_matrix(size, lens)
    line = ((np.arange(size) - camera[0, 2]) / camera[0, 0]).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return np.stack([x, y, np.ones_like(x)], axis=-1)


def noise(
    rng: np.random.Generator, side: int, shortest: float, longest: float, slope: float = 1.0
) -> Float32[np.ndarray, "G G"]:
    """A random texture of mean 0 and deviation 1 with waves of `shortest` to `longest` cells.

    Amplitude falls as frequency^-slope inside the band: white noise filtered in Fourier space.
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


def cast(surface: Surface, view: View) -> Hits:
    """First meeting of each pixel's ray with the surface, occlusion included.

    A ray at height t is over the cell base + t drift at depth d0 + t d1. t rises in steps of about
    1.5 cells sideways and keeps the last step below the surface, which is the first one the ray
    meets; the interval around it is halved five times and then interpolated.
    """
    base, drift, (depth0, depth1) = _ray_lines(surface.height.shape[0], view)
    top = float(surface.height.max())
    steps = int(np.clip(np.ceil(top * np.abs(drift).max() / 1.5), 4, 40))
    low = np.full(depth0.shape, -1, np.float32)
    for level in np.linspace(0, top, steps, endpoint=False, dtype=np.float32)[1:]:
        low[nearest(surface.height, base + level * drift) >= level] = level
    # Rays that meet only the backdrop, nowhere near the part, need no search.
    active = (low > 0) | (nearest(surface.height, base) > 0)
    base_a, drift_a = base[:, active], drift[:, active]
    # The march looked at whole cells: the crossing may be a step off its answer either way.
    step = np.float32(top / steps)
    low_a = np.maximum(low[active] - step, 0)
    high_a = np.maximum(low[active], 0) + 2 * step
    for _ in range(5):
        middle = (low_a + high_a) / 2
        below = bilinear(surface.height, base_a + middle * drift_a) >= middle
        low_a, high_a = np.where(below, middle, low_a), np.where(below, high_a, middle)
    over = bilinear(surface.height, base_a + low_a * drift_a) - low_a
    under = high_a - bilinear(surface.height, base_a + high_a * drift_a)
    t = np.zeros_like(depth0)
    t[active] = low_a + (high_a - low_a) * np.clip(over / np.maximum(over + under, 1e-6), 0, 1)
    return Hits(base + t * drift, depth0 + t * depth1)


def bilinear(
    field: Float32[np.ndarray, "G G *channels"], cell: Float32[np.ndarray, axes * where]
) -> Float32[np.ndarray, "*sampled"]:
    """`field` at fractional (row, column), interpolated between its four cells."""
    side = field.shape[1]
    whole = np.clip(cell.astype(np.int32), 0, side - 2)
    part = cell - whole
    at = whole[0] * side + whole[1]
    flat = field.reshape(field.shape[0] * field.shape[1], -1)
    down, right = (p.reshape(*p.shape, 1) for p in part)
    a, b, c, d = (flat.take(at + step, axis=0) for step in (0, 1, side, side + 1))
    a += (b - a) * right
    c += (d - c) * right
    a += (c - a) * down
    return a.reshape(*at.shape, *field.shape[2:])


def nearest(
    field: Shaped[np.ndarray, "G G"], cell: Float32[np.ndarray, axes * where]
) -> Shaped[np.ndarray, " *where"]:
    """`field` of the cell at fractional (row, column)."""
    row, column = (cell + 0.5).astype(np.int32)
    return field.ravel()[row * field.shape[1] + column]


def _ray_lines(
    side: int, view: View
) -> tuple[
    Float32[np.ndarray, "2 H W"], Float32[np.ndarray, "2 H W"], Float32[np.ndarray, "2 H W"]
]:
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
