"""A scan of one's own camera: colour, points, mask, on the grid of the depth image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lsfa_lib.datasets.entry import Entry, seen
from lsfa_lib.datasets.image_files import inverted, read_colour, read_mask
from lsfa_lib.datasets.intrinsics import MIDDLE, off_middle
from lsfa_lib.datasets.names import SUFFIXES
from lsfa_lib.datasets.own_camera import (
    Intrinsics,
    read_depth,
    read_organised_cloud,
    read_organised_points,
)
from lsfa_lib.datasets.registration import Grid, camera_of_grid, colour_on, grid_of, mask_on
from lsfa_lib.datasets.relief import shaded_depth
from lsfa_lib.records import UNLABELLED, Mask, Points, Scan
from lsfa_lib.storage.files import InputError


def read_own(scan: Entry, camera: Intrinsics | None, unit_m: float = 0.0) -> Scan:
    """The scan of an entry of `pair_files`; depth images need the camera. Raises InputError.

    `unit_m` is the length of one unit; 0: the camera's, else that of `read_depth`, or metres for
    a cloud. Colour of another size than depth is brought onto its grid.
    """
    cloud = scan.path.suffix.lower() in SUFFIXES["cloud"]
    if scan.rgb is None:
        xyz = (
            read_organised_points(scan.path, unit_m or 1.0)
            if cloud
            else _depth_on_grid(scan.path, None, camera, unit_m)
        )
        photograph = rgb = shaded_depth(xyz)
        grid = Grid(rgb.shape[1], rgb.shape[0])
    elif cloud:
        image = None if scan.rgb == scan.xyz else scan.rgb
        rgb, xyz = read_organised_cloud(scan.path, unit_m or 1.0, image)
        photograph, grid = rgb, Grid(rgb.shape[1], rgb.shape[0])
    else:
        photograph = rgb = read_colour(scan.rgb)
        colour_size = (rgb.shape[1], rgb.shape[0])
        xyz, grid = np.zeros(rgb.shape, np.float32), Grid(*colour_size)
        if scan.xyz:
            camera = _of_colour(camera, colour_size)
            xyz = _depth_on_grid(scan.xyz, colour_size, camera, unit_m)
            size = (xyz.shape[1], xyz.shape[0])
            grid = grid_of(scan.xyz, size, scan.rgb, colour_size, camera)
            rgb = colour_on(grid, rgb)
    defect = _defect(scan, xyz.shape[:2], photograph.shape[:2], grid)
    return Scan(rgb, xyz, defect, scan.name, scan.kind, scan.path, scan.modalities)


def _of_colour(camera: Intrinsics | None, size: tuple[int, int]) -> Intrinsics | None:
    """The camera with the size of the colour image, where its file has none but they fit.

    They do if the principal point is near the middle of the colour image.
    """
    if not camera or camera.width or camera.colour:
        return camera
    fits = off_middle(camera, *size) < MIDDLE
    return replace(camera, width=size[0], height=size[1]) if fits else camera


def _depth_on_grid(
    path: Path, colour_size: tuple[int, int] | None, camera: Intrinsics | None, unit_m: float
) -> Points:
    """Points of a depth image by the camera on whose grid it is; None: without a colour image."""
    xyz = read_depth(path, camera, unit_m)
    size = (xyz.shape[1], xyz.shape[0])
    own = camera and camera_of_grid(camera, size, colour_size or size, path)
    return xyz if own is camera else read_depth(path, own, unit_m)


def _defect(scan: Entry, size: tuple[int, ...], photograph: tuple[int, ...], grid: Grid) -> Mask:
    """The mask of the scan, drawn on its points or on its photograph."""
    if scan.gt is None:
        if scan.kind in ("good", UNLABELLED):
            return np.zeros(size, bool)
        raise InputError(
            f"{scan.rgb or scan.path}: a scan of kind {scan.kind!r} needs a mask "
            f"{Path(scan.name).name}_mask.png that marks its defect{seen(scan.path.parent)}; draw "
            f"one, or import it as --kind {UNLABELLED}"
        )
    defect = read_mask(scan.gt)
    if defect.shape not in (size, photograph):
        raise InputError(
            f"{scan.gt}: {defect.shape[1]} x {defect.shape[0]} px, expected {size[1]} x {size[0]}; "
            "draw it again"
        )
    if defect.shape != size:
        defect = mask_on(grid, defect)
    marked = np.count_nonzero(defect)
    if problem := inverted(scan.gt, defect):
        raise InputError(problem)
    if scan.kind == "good" and marked:
        raise InputError(
            f"{scan.gt}: marks {marked} pixels as defective in a scan imported as good; import it "
            "with --split test --kind NAME, or remove the mask"
        )
    if scan.kind not in ("good", UNLABELLED) and not marked:
        raise InputError(
            f"{scan.gt}: marks {marked} pixels of {size[1]} x {size[0]}, expected some; draw it "
            "again, with values up to 255, as PNG"
        )
    return defect
