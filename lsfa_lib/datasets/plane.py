"""Background plane of a scan, from strips along the sides of the field the camera measured."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from lsfa_lib.config import PreprocessConfig
from lsfa_lib.records import Mask, Points, Scan
from lsfa_lib.storage.files import InputError

Plane = Float[np.ndarray, "abcd=4"]
Cloud = Float[np.ndarray, "M 3"]
EDGE_SHARE = 0.05
"""A row or column with fewer readings than this is outside the field that the camera measured."""
BORDER_FILL = 0.25
"""A border strip of a raw scan has more readings than this; of a cut-out part, fewer."""
FIELD_SHARE = 0.5
"""A raw scan's readings span more of the frame than this; a cut-out part's usually do not."""
PLANE_SHARE = 0.25
"""A background plane holds at least this share of the border's readings."""
BORDER_POINTS = 4000
"""Border readings sampled for the plane: with 0.3 mm of noise, within a few micrometres."""
FIRST_POINTS, FINALISTS = 200, 20
"""All planes are compared on a few border points, the best of them on all points."""
REFITS = 3
NO_REMOVAL = "set preprocess.background_removal to none"
"""The way out where there is no background to remove."""
BEHIND = 3.0
"""Nothing can be seen behind the ground: a reading there counts up to the square of this."""


def plane_of(scan: Scan, config: PreprocessConfig) -> Plane:
    """Background plane (a, b, c, d): a x + b y + c z + d is the height in metres, > 0 in front.

    RANSAC on the border strips, `ransac_iterations` planes through `ransac_points` points each
    (least squares) and as many through three: the first average out the noise but need nearly the
    complete border on the plane, the second tolerate a part that covers one or two of the strips.
    The best is refitted on the points within `ransac_distance_m` of it.
    """
    reach = config.ransac_distance_m
    draw = np.random.default_rng(0)
    points = draw.permutation(_border_points(scan, config))[:BORDER_POINTS]
    sizes = (config.ransac_points, 3)
    samples = [draw.integers(len(points), size=(config.ransac_iterations, n)) for n in sizes]
    planes = np.concatenate([_fit(points[sample]) for sample in samples])
    first = _loss(points[:FIRST_POINTS], planes, reach)
    finalists = planes[np.argsort(first)[:FINALISTS]]
    plane = finalists[_loss(points, finalists, reach).argmin()]
    share = _near(points, plane, reach).mean()
    if share < PLANE_SHARE:
        raise InputError(
            f"{scan.path}: no background plane, only {share:.0%} of the border's readings lie "
            f"within {reach * 1000:g} mm of one, expected {PLANE_SHARE:.0%}; "
            "capture the part on a flat surface, or raise preprocess.ransac_distance_m for a "
            f"noisier camera; if there is no background in the scan, {NO_REMOVAL}"
        )
    for _ in range(REFITS):
        plane = _fit(points[None, _near(points, plane, reach)])[0]
    return plane


def middle_plane(scan: Scan) -> Plane:
    """Least-squares plane through all readings, in the form of `plane_of`."""
    require_readings(scan)
    return _fit(scan.xyz[None, readings_of(scan.xyz)].astype(np.float64))[0]


def height_above(xyz: Points, plane: Plane) -> Float[np.ndarray, "H W"]:
    """Signed distance of every point from `plane`, metres."""
    return xyz @ plane[:3].astype(xyz.dtype) + xyz.dtype.type(plane[3])


def readings_of(xyz: Points) -> Mask:
    """True where the camera measured something.

    The depth decides: (x, y, 0) is no reading whatever x and y say, while x = 0 or y = 0 is the
    column or row through the optical axis, which a test of all three would remove from every part.
    """
    return xyz[..., 2] != 0


def _border_points(scan: Scan, config: PreprocessConfig) -> Cloud:
    """Readings in the strips along the four sides of the field that the camera measured."""
    require_readings(scan)
    readings = readings_of(scan.xyz)
    field, strips = _field_and_strips(readings, config.border_px)
    border = readings & strips
    fill = border.sum() / max(strips.sum(), 1)
    if border.sum() < config.ransac_points or fill < BORDER_FILL or field < FIELD_SHARE:
        raise InputError(
            f"{scan.path}: readings span {field:.0%} of the frame (expected {FIELD_SHARE:.0%}) and "
            f"fill {fill:.0%} of its border (expected {BORDER_FILL:.0%}), as if another tool had "
            "removed the background in place; restore the original file, or, if it was removed on "
            f"purpose, {NO_REMOVAL}"
        )
    return scan.xyz[border].astype(np.float64)


def require_readings(scan: Scan) -> None:
    """Raises InputError for a scan without any reading, or with coordinates that are no numbers."""
    if not np.isfinite(scan.xyz).all():
        broken = (~np.isfinite(scan.xyz).all(-1)).sum()
        raise InputError(
            f"{scan.path}: {broken} points have NaN or infinite coordinates, expected numbers; "
            "write (0, 0, 0) where there is no reading"
        )
    if not scan.xyz[..., 2].any():
        raise InputError(
            f"{scan.path}: all {scan.defect.size} points have z = 0, expected depths in metres; "
            "the capture failed or the file was emptied, so leave it out or restore it"
        )


def _field_and_strips(readings: Mask, width: int) -> tuple[float, Mask]:
    """Share of the frame that the readings span, and strips of `width` px along its four sides.

    Depth cameras have a margin without readings, so the strips lie along the readings' bounding
    box and not along the frame.
    """
    strips = np.zeros_like(readings)
    rows = np.flatnonzero(readings.mean(1) >= EDGE_SHARE)
    columns = np.flatnonzero(readings.mean(0) >= EDGE_SHARE)
    if not (len(rows) and len(columns)):
        return 0.0, strips
    (top, bottom), (left, right) = rows[[0, -1]] + [0, 1], columns[[0, -1]] + [0, 1]
    strips[top:bottom, left:right] = True
    strips[top + width : bottom - width, left + width : right - width] = False
    return (bottom - top) * (right - left) / readings.size, strips


def _fit(points: Float[np.ndarray, "N K 3"]) -> Float[np.ndarray, "N 4"]:
    """Least-squares planes through N sets of K points, normals (least variance) to the camera."""
    centre = points.mean(1, keepdims=True)
    offset = points - centre
    normal = np.linalg.eigh(offset.swapaxes(1, 2) @ offset)[1][..., 0]
    shift = -(normal * centre[:, 0]).sum(1, keepdims=True)
    return np.concatenate([normal, shift], axis=1) * np.where(shift < 0, -1.0, 1.0)


def _loss(
    points: Cloud, planes: Float[np.ndarray, "N abcd=4"], reach: float
) -> Float[np.ndarray, " N"]:
    """Mean squared distance, a point in front counting at most as one at `reach` (MSAC).

    Counting points within reach instead would favour planes slanted through ground and part.
    """
    height = points @ planes[:, :3].T + planes[:, 3]
    return (np.clip(height, -BEHIND * reach, reach, out=height) ** 2).mean(0)


def _near(points: Cloud, plane: Plane, reach: float) -> Bool[np.ndarray, " M"]:
    return np.abs(points @ plane[:3] + plane[3]) < reach
