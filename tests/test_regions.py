"""Regions of a map: areas, places and boxes against known surfaces and a brute-force search."""

import numpy as np
import pytest

from lsfa_lib.deployment.regions import regions_of, surface_areas

SIZE = (40, 50)
PITCH_M = 0.0005


def plane(slope: float) -> np.ndarray:
    """0.5 mm between pixels in x and y; z rises with x."""
    v, u = np.indices(SIZE)
    x, y = u * PITCH_M, v * PITCH_M
    return np.stack([x, y, 0.4 + slope * x], axis=-1).astype(np.float32)


def two_spots() -> np.ndarray:
    anomaly = np.zeros(SIZE, np.float32)
    anomaly[5:9, 10:16] = 2.0
    anomaly[9, 16] = 3.0  # touches by a corner
    anomaly[30:32, 40:43] = 1.5
    anomaly[0, :] = np.nan
    return anomaly


@pytest.mark.parametrize("slope", [0.0, 0.75])
def test_areas_of_a_tilted_plane(slope: float) -> None:
    large, small = regions_of(two_spots(), 1.0, plane(slope))
    pixel_mm2 = 0.25 * np.sqrt(1 + slope**2)
    assert (large.area_px, small.area_px) == (25, 6)
    assert large.area_mm2 == pytest.approx(25 * pixel_mm2, rel=1e-3)
    assert small.area_mm2 == pytest.approx(6 * pixel_mm2, rel=1e-3)


def test_places_and_boxes() -> None:
    anomaly, xyz = two_spots(), plane(0.5)
    large, small = regions_of(anomaly, 1.0, xyz)
    assert large.box_px == (10, 5, 7, 5) and small.box_px == (40, 30, 3, 2)
    assert large.peak == 3.0 and large.peak_px == (16, 9)
    assert large.peak_mm == pytest.approx(xyz[9, 16].astype(float) * 1000)
    inside = np.argwhere(np.nan_to_num(anomaly) >= 2)
    assert large.centroid_px == pytest.approx(inside.mean(axis=0)[::-1])
    expected = np.mean([xyz[tuple(at)] for at in inside], axis=0) * 1000
    assert large.centroid_mm == pytest.approx(expected.astype(float), abs=1e-3)


def test_a_region_without_readings_has_no_millimetres() -> None:
    xyz = plane(0.0)
    xyz[28:34, 38:45] = 0
    _, small = regions_of(two_spots(), 1.0, xyz)
    assert small.area_px == 6
    assert small.area_mm2 is small.centroid_mm is small.peak_mm is None
    assert np.isnan(surface_areas(xyz)[31, 41])


def test_the_threshold_itself_is_not_above() -> None:
    assert regions_of(two_spots(), 3.0, plane(0.0)) == []
    assert len(regions_of(two_spots(), 2.0, plane(0.0))) == 1
