"""Where a pseudo-defect lies and how its strength falls off: a wavy ellipse on the part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from lsfa_lib.records import Mask

RIM = 0.05
"""Profile at the outline as a share of its peak. The fainter tail is cut off, so that no pixel is
labelled that is hardly changed."""
WAVES = np.arange(2, 6)


@dataclass(frozen=True)
class PseudoSettings:
    """Ranges (low, high), sampled uniformly; the area is sampled uniformly in its logarithm."""

    area_percent: tuple[float, float] = (0.4, 4.0)
    """Share of the valid pixels."""
    elongation: tuple[float, float] = (1.0, 2.5)
    """Length over width of the ellipse that the outline is derived from."""
    waviness: tuple[float, float] = (0.05, 0.15)
    """Amplitude of each wave of the outline, as a share of the radius."""
    depth_mm: tuple[float, float] = (0.5, 3.0)
    """Peak of dents and bumps; its high end also limits the pasted relief."""
    opacity: tuple[float, float] = (0.4, 0.9)
    """Opacity of the blended texture."""
    colour_shift: tuple[float, float] = (0.05, 0.2)
    """Peak of stains, in the channel that changes most; 1 is the full range."""
    donor_shift: tuple[float, float] = (0.04, 0.12)
    """The same for a pasted or blended texture, which might otherwise equal what it covers."""


DEFAULTS = PseudoSettings()
REAL = PseudoSettings(
    area_percent=(0.1, 1.5),
    depth_mm=(0.2, 1.5),
    opacity=(0.15, 0.6),
    colour_shift=(0.02, 0.1),
    donor_shift=(0.01, 0.06),
)
"""As small and faint as real defects: on photographs of MVTec 3D-AD they cover .08 to .43 % of the
frame and differ from their surroundings by at most about one standard deviation of these."""


@dataclass(frozen=True)
class Blob:
    """Location of a defect, and its strength at each of its n pixels and c colour pixels."""

    pixels: Int[np.ndarray, "n 2"]
    profile: Float[np.ndarray, " n"]
    """1 at the centre (the first pixel), falling to RIM at the outline."""
    around: Int[np.ndarray, "m 2"]
    """The blob and about as many pixels around it."""
    side: int
    """Side of the masks, px."""
    colour_side: int
    """Side of the image, px."""

    @cached_property
    def colour_pixels(self) -> tuple[Int[np.ndarray, "c 2"], Int[np.ndarray, " c"]]:
        """The c image pixels (row, column) in the blob, and the index of the mask pixel of each."""
        entry = np.full((self.side, self.side), -1)
        entry[tuple(self.pixels.T)] = np.arange(len(self.pixels))
        at = ((np.arange(self.colour_side) + 0.5) * self.side / self.colour_side).astype(int)
        entry = entry[at[:, None], at]
        inside = np.argwhere(entry >= 0)
        of = entry[tuple(inside.T)]
        order = np.argsort(of, kind="stable")
        return inside[order], of[order]

    def colour_pixels_at(self, pixels: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "c 2"]:
        """The image pixels in these n mask pixels, at the same offsets as `colour_pixels`."""
        inside, of = self.colour_pixels
        scale = self.colour_side / self.side
        within = inside - np.floor(self.pixels[of] * scale)
        found = np.floor(pixels[of] * scale) + within
        return np.clip(found, 0, self.colour_side - 1).astype(np.int64)


def drawn_blob(
    valid: Mask, rng: np.random.Generator, settings: PseudoSettings, colour_side: int = 0
) -> Blob:
    """The valid pixels nearest to a random one, in a metric whose circles are wavy ellipses.

    level = |x - centre| / outline(angle); profile = (1 - c level^2)^2, level 1 at the farthest.
    Selecting the nearest pixels keeps the area as drawn even at the rim of a part, where the
    outline follows the rim. Two arms of a thin part can both be covered.
    """
    pixels = np.argwhere(valid)
    low, high = np.log(settings.area_percent)
    share = np.exp(rng.uniform(low, high)) / 100
    count = min(max(round(share * len(pixels)), 1), len(pixels))
    away = pixels - pixels[rng.integers(len(pixels))]
    angle = np.arctan2(away[:, 0], away[:, 1])
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(*settings.elongation) ** 0.5
    ellipse = np.hypot(np.cos(angle - turn) / stretch, np.sin(angle - turn) * stretch)
    phases = rng.uniform(0, 2 * np.pi, len(WAVES))
    waves = np.cos(angle[:, None] * WAVES + phases).sum(1) * rng.uniform(*settings.waviness)
    level = np.hypot(away[:, 0], away[:, 1]) * ellipse * np.exp(-waves)
    order = np.argsort(level, kind="stable")
    inside = order[:count]
    relative = level[inside] / max(level[inside[-1]], 1e-9)
    profile = (1 - (1 - RIM**0.5) * relative**2) ** 2
    around = pixels[order[: 2 * count + 30]]
    return Blob(pixels[inside], profile, around, len(valid), colour_side or len(valid))
