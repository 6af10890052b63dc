"""How a scan was captured: frame, camera, distance, exposure; and what does not fit a detector."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lsfa_lib.datasets.plane import readings_of
from lsfa_lib.records import Points, Scan

SATURATED = 250
"""A pixel with all channels at least this is overexposed."""
MORE_SATURATED = 0.1
"""A scan may have this share of overexposed pixels more than any training scan."""
FACTOR = 2.0
"""A scan may be this many times farther or nearer than every training scan."""
PLAY = 0.05
"""Tolerance of focal lengths, relative; the spread of the training scans if that is larger."""
MOST_POINTS = 20_000


@dataclass(frozen=True)
class Capture:
    """What is compared between a new scan and the training scans."""

    width: int
    height: int
    overexposed: float
    """Share of overexposed pixels; 0 without colour."""
    distance_m: float = 0.0
    """Median of z; 0 for an image without 3D."""
    focal_px: tuple[float, float] = (0.0, 0.0)
    """fx and fy of the pinhole camera that fits the points best."""
    centre_px: tuple[float, float] = (0.0, 0.0)
    """Its principal point."""


def capture_of(scan: Scan) -> Capture:
    """Frame and camera of a scan: u = fx x / z + cx and v = fy y / z + cy, by least squares."""
    height, width = scan.rgb.shape[:2]
    bright = [channel >= SATURATED for channel in np.moveaxis(scan.rgb, 2, 0)]
    has_colour = "rgb" in scan.modalities
    overexposed = float(np.logical_and.reduce(bright).mean()) if has_colour else 0.0
    if "3d" not in scan.modalities:
        return Capture(width, height, overexposed)
    readings = np.flatnonzero(readings_of(scan.xyz))
    step = max(1, len(readings) // MOST_POINTS)
    rows, columns = np.divmod(readings[::step], width)
    x, y, z = scan.xyz[rows, columns].astype(np.float64).T
    if len(z) < 2 or np.ptp(rows) == 0 or np.ptp(columns) == 0:
        return Capture(width, height, overexposed, float(np.median(z)) if len(z) else 0.0)
    (fx, cx), (fy, cy) = _line(x / z, columns), _line(y / z, rows)
    return Capture(width, height, overexposed, float(np.median(z)), (fx, fy), (cx, cy))


def _line(x: Float[np.ndarray, " n"], y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of y over x."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def misfit(capture: Capture, training: Sequence[Capture]) -> str:
    """The reason why a scan cannot be compared with the training scans; "" if it can."""
    sizes = {(each.width, each.height) for each in training}
    if (capture.width, capture.height) not in sizes:
        known = " or ".join(f"{width} x {height}" for width, height in sorted(sizes))
        return (
            f"a frame of {capture.width} x {capture.height} px, but the training scans have "
            f"{known} px; capture it as they were, or fit a detector to scans of this size"
        )
    most = max(each.overexposed for each in training)
    if capture.overexposed > most + MORE_SATURATED:
        return (
            f"{capture.overexposed:.0%} of the pixels are overexposed, at most {most:.0%} in the "
            "training scans; lower the exposure"
        )
    return _wrong_distance(capture, training) or _other_camera(capture, training)


def _wrong_distance(capture: Capture, training: Sequence[Capture]) -> str:
    near = min(each.distance_m for each in training)
    far = max(each.distance_m for each in training)
    found = capture.distance_m
    if near / FACTOR <= found <= far * FACTOR:
        return ""
    remedy = "capture it as they were"
    if near * 1000 / FACTOR <= found <= far * 1000 * FACTOR:
        remedy = "the coordinates look like millimetres, write metres"
    return (
        f"a median distance of {found:.3g} m, but the training scans have {near:.3g} to "
        f"{far:.3g} m; {remedy}"
    )


def _other_camera(capture: Capture, training: Sequence[Capture]) -> str:
    for axis, name in enumerate(("horizontal", "vertical")):
        known = [each.focal_px[axis] for each in training]
        low, high, found = min(known), max(known), capture.focal_px[axis]
        play = max(PLAY * abs(float(np.median(known))), high - low)
        if not low - play <= found <= high + play:
            return (
                f"another camera: a {name} focal length of {found:.0f} px, but the training scans "
                f"have {low:.0f} to {high:.0f} px; use the camera of the training scans, or fit a "
                "detector to scans of this one"
            )
    return ""


def digest_of(rgb: np.ndarray, xyz: Points) -> str:
    """sha256 of colours and points: recognises a scan under another name or in another format."""
    return hashlib.sha256(rgb.tobytes() + xyz.tobytes()).hexdigest()[:32]
