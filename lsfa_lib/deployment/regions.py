"""Marked regions: connected areas of a map above the pixel threshold, in pixels and millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from lsfa_lib.datasets.plane import readings_of
from lsfa_lib.records import Points

Place = tuple[float, float, float]
AnomalyMap = Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class Region:
    """One marked area of a scan. Pixels are (column, row), millimetres in the camera's frame."""

    area_px: int
    area_mm2: float | None
    """Of the surface; None without readings in the region."""
    peak: float
    """Largest value of the map in it."""
    peak_px: tuple[int, int]
    peak_mm: Place | None
    centroid_px: tuple[float, float]
    centroid_mm: Place | None
    """Mean of the region's readings."""
    box_px: tuple[int, int, int, int]
    """Left, top, width, height."""


def regions_of(anomaly_map: AnomalyMap, threshold: float, xyz: Points) -> list[Region]:
    """The 8-connected areas above the threshold, largest first; NaN is not above."""
    above = np.nan_to_num(anomaly_map, nan=-np.inf) > threshold
    labels, count = ndimage.label(above, structure=np.ones((3, 3)))
    if count == 0:
        return []
    surface = surface_areas(xyz)
    found = [
        _region(box, labels[box] == number, anomaly_map[box], xyz[box], surface[box])
        for number, box in enumerate(ndimage.find_objects(labels), 1)
    ]
    return sorted(found, key=lambda region: -region.area_px)


def surface_areas(xyz: Points) -> Float[np.ndarray, "H W"]:
    """Area in mm^2 of the surface that each pixel sees; NaN where a neighbour has no reading.

    |dP/du x dP/dv|, by central differences of the points P
    """
    points = xyz.astype(np.float64) * 1000
    points[~readings_of(xyz)] = np.nan
    if min(xyz.shape[:2]) < 2:
        return np.full(xyz.shape[:2], np.nan)
    down, right = np.gradient(points, axis=(0, 1))
    return np.linalg.norm(np.cross(right, down), axis=2)


def _region(
    box: tuple[slice, slice],
    inside: Bool[np.ndarray, "h w"],
    values: Float[np.ndarray, "h w"],
    xyz: Points,
    surface: Float[np.ndarray, "h w"],
) -> Region:
    top, left = box[0].start, box[1].start
    rows, columns = np.nonzero(inside)
    highest = int(values[inside].argmax())
    peak = int(rows[highest]), int(columns[highest])
    measured = inside & readings_of(xyz)
    areas = surface[inside & np.isfinite(surface)]
    at_peak = xyz[peak] if measured[peak] else None
    return Region(
        area_px=int(inside.sum()),
        # Pixels at the rim of a gap count as the others do.
        area_mm2=float(np.median(areas) * (inside.sum())) if len(areas) else None,
        peak=float(values[peak]),
        peak_px=(left + peak[1], top + peak[0]),
        peak_mm=None if at_peak is None else _millimetres(at_peak),
        centroid_px=(float(left + columns.mean()), float(top + rows.mean())),
        centroid_mm=_millimetres(xyz[measured].mean(axis=0, dtype=np.float64))
        if measured.any()
        else None,
        box_px=(left, top, inside.shape[1], inside.shape[0]),
    )


def _millimetres(point: Float[np.ndarray, "xyz=3"]) -> Place:
    x, y, z = (float(value) * 1000 for value in point)
    return x, y, z
