"""The camera of a scan from its points, and what does not fit the training scans."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scan_case import box_scan

from lsfa_lib.datasets.capture import Capture, capture_of, digest_of, misfit
from lsfa_lib.datasets.own_camera import Intrinsics, points_of_depth
from lsfa_lib.records import Scan

CAMERA = Intrinsics(700.0, 650.0, 100.0, 70.0, 1.0)


def scan_of(camera: Intrinsics = CAMERA, seed: int = 0, scale: float = 1.0) -> Scan:
    depth = np.random.default_rng(seed).uniform(0.4, 0.6, (150, 200)) * scale
    depth[20:30] = 0
    rgb = np.full((150, 200, 3), 120, np.uint8)
    xyz, nowhere = points_of_depth(depth, camera), np.zeros((150, 200), bool)
    return replace(box_scan(), rgb=rgb, xyz=xyz, defect=nowhere)


TRAINING = [capture_of(scan_of(seed=seed)) for seed in (1, 2, 3)]


def test_the_camera_is_found_from_the_points() -> None:
    found = capture_of(scan_of())
    assert (found.width, found.height) == (200, 150)
    assert found.focal_px == pytest.approx((700, 650), rel=1e-4)
    assert found.centre_px == pytest.approx((100, 70), abs=0.05)
    assert found.distance_m == pytest.approx(0.5, abs=0.01)
    assert misfit(found, TRAINING) == ""


@pytest.mark.parametrize(
    ("scan", "sentence"),
    [
        (scan_of(scale=1000), "0.5 m; the coordinates look like millimetres, write metres"),
        (scan_of(scale=3), "a median distance of 1.5 m, but the training scans have 0.5"),
        (scan_of(replace(CAMERA, fx=800.0)), "another camera: a horizontal focal length of 800 px"),
        (scan_of(replace(CAMERA, fy=550.0)), "another camera: a vertical focal length of 550 px"),
    ],
    ids=["millimetres", "far", "fx", "fy"],
)
def test_what_does_not_fit_is_said(scan: Scan, sentence: str) -> None:
    assert re.search(sentence, misfit(capture_of(scan), TRAINING))


def test_another_frame_and_overexposure_are_said() -> None:
    scan = scan_of()
    smaller = replace(scan, rgb=scan.rgb[:100], xyz=scan.xyz[:100], defect=scan.defect[:100])
    assert misfit(capture_of(smaller), TRAINING).startswith(
        "a frame of 200 x 100 px, but the training scans have 200 x 150 px"
    )
    bright = scan.rgb.copy()
    bright[:60] = 255
    assert "40% of the pixels are overexposed, at most 0%" in misfit(
        capture_of(replace(scan, rgb=bright)), TRAINING
    )


def test_an_image_alone_has_a_frame_and_an_exposure_only() -> None:
    scan = replace(scan_of(), xyz=np.zeros((150, 200, 3), np.float32), modalities=("rgb",))
    assert capture_of(scan) == Capture(200, 150, 0.0)
    assert misfit(capture_of(scan), [Capture(200, 150, 0.0)]) == ""


def test_the_digest_is_that_of_the_content() -> None:
    one, other = scan_of(), scan_of(seed=1)
    assert digest_of(one.rgb, one.xyz) == digest_of(one.rgb.copy(), one.xyz.copy())
    assert digest_of(one.rgb, one.xyz) != digest_of(other.rgb, other.xyz)
