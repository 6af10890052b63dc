"""Your own camera: an organised cloud, or a depth image and intrinsics, as organised points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt16

from lsfa_lib.datasets.clouds import read_cloud, require_organised
from lsfa_lib.datasets.image_files import decoding, read_any, read_colour
from lsfa_lib.datasets.intrinsics import ASPECT, at_size
from lsfa_lib.datasets.intrinsics import Intrinsics as Intrinsics
from lsfa_lib.datasets.intrinsics import read_intrinsics as read_intrinsics
from lsfa_lib.records import Points, Rgb
from lsfa_lib.storage.files import InputError

PLAUSIBLE_M = (0.02, 20.0)
"""Working distances of scanners; millimetres read as metres are far beyond."""
SENTINEL_M = 1e5
"""Values this large stand for no reading, in any unit of length."""
FAR = 10
"""A reading at this many times the median depth is far from everything that is inspected."""
MOST_BEHIND = 0.1
"""Largest ratio of points behind the camera to points in front of it."""


def read_organised_cloud(
    path: Path, unit_m: float = 1.0, image: Path | None = None
) -> tuple[Rgb, Points]:
    """Colour and points in metres of a cloud that keeps its rows and columns.

    (0, 0, 0) is no reading. `unit_m` is the length of one unit of the file. Colour comes from the
    cloud, else from the `image` beside it, which also gives the size where the header does not.
    Raises InputError without colour or rows, and for distances outside `PLAUSIBLE_M`.
    """
    cloud = read_cloud(path)
    rgb = read_colour(image) if image and (cloud.colours is None or not cloud.height) else None
    size = require_organised(path, cloud, rgb.shape[:2] if rgb is not None else (0, 0))
    if cloud.colours is not None:
        if image:
            _require_aspect(path, size, image)
        rgb = cloud.colours.reshape(*size, 3)
    if rgb is None:
        raise InputError(
            f"{path}: no colours, or only black, expected rgb or rgba; export the cloud with them, "
            "put a colour image of the same name beside it, or import it alone with --depth-only"
        )
    if rgb.shape[:2] != size:
        raise InputError(
            f"{image}: {rgb.shape[1]} x {rgb.shape[0]} px, but {path} has {size[1]} x {size[0]} "
            "points; export both from the same frame"
        )
    return rgb, measured_points(path, cloud.points.reshape(*size, 3), unit_m)


def _require_aspect(path: Path, size: tuple[int, int], image: Path) -> None:
    """Raises InputError if a coloured cloud and the image beside it differ in aspect ratio."""
    height, width = read_colour(image).shape[:2]
    if abs(width * size[0] / (height * size[1]) - 1) > ASPECT:
        raise InputError(
            f"{path}: {size[1]} x {size[0]} points, but {image} beside it is {width} x {height} px;"
            " correct the rows and columns in its header, or remove the image"
        )


def read_organised_points(path: Path, unit_m: float = 1.0) -> Points:
    """Points in metres of a cloud that keeps its rows and columns, without its colours, if any.

    Raises InputError as `read_organised_cloud` does.
    """
    cloud = read_cloud(path)
    size = require_organised(path, cloud)
    return measured_points(path, cloud.points.reshape(*size, 3), unit_m)


def read_depth(path: Path, camera: Intrinsics | None, unit_m: float = 0.0) -> Points:
    """Points in metres of a depth image, or of an image of x, y, z (.png, .tiff, .exr or .npy).

    0, negative numbers, NaN, infinity and the largest whole number of the type are no reading.
    Whole numbers are millimetres unless the camera or `unit_m` says otherwise; for others metres
    and millimetres are told apart by their median. A .raw file has the size of the camera's file.
    Raises InputError.
    """
    raw = path.suffix.lower() == ".raw"
    values = _read_raw(path, _required(camera, path)) if raw else read_any(path)
    if values.ndim == 3 and values.shape[2] == 3 and values.dtype.kind == "f":
        return measured_points(path, values.astype(np.float64), unit_m or 1.0)
    if values.ndim != 2 or not values.size:
        raise InputError(
            f"{path}: an image of shape {values.shape}, expected one channel of depths, or x, y, z "
            "as floats of shape (height, width, 3); give the depth image, not the colour image"
        )
    if values.dtype.itemsize == 1:
        raise InputError(
            f"{path}: depths of {values.dtype.itemsize * 8} bits, which tell no distances apart; "
            "export 16 bits, or floats"
        )
    camera = _required(camera, path)
    z = values.astype(np.float64)
    if values.dtype.kind in "iu":
        z[values == np.iinfo(values.dtype).max] = 0
    unit = unit_m or camera.metres or _unit_of(values, z)
    known = np.isfinite(z) & (z > 0) & (np.nan_to_num(z) * unit < SENTINEL_M)
    known &= ~_sentinels(z, known)
    require_plausible(path, z[known], unit)
    fitted = at_size(camera, values.shape[1], values.shape[0], path)
    return points_of_depth(np.where(known, z, 0) * unit, fitted)


def _required(camera: Intrinsics | None, path: Path) -> Intrinsics:
    if camera is None:
        raise InputError(
            f"{path.parent}: depth images need the camera's intrinsics; pass the camera file "
            "with --intrinsics (JSON, YAML, XML or text with fx, fy, cx, cy in pixels)"
        )
    return camera


def _read_raw(path: Path, camera: Intrinsics) -> UInt16[np.ndarray, "H W"]:
    """Depths of 16 bits, row by row without a header, as the RealSense Viewer writes them."""
    with decoding(path):
        values = np.fromfile(path, "<u2")
    width, height = camera.width, camera.height
    if not values.size or len(values) != width * height:
        raise InputError(
            f"{path}: {len(values)} depths, expected {width} x {height} as in the camera's file; "
            "pass the one of this snapshot with --intrinsics, such as NAME_Depth_metadata.csv"
        )
    return values.reshape(height, width)


def _unit_of(values: Shaped[np.ndarray, "H W"], z: Float64[np.ndarray, "H W"]) -> float:
    """1 mm; 1 m for floats whose median can only be metres."""
    known = z[np.isfinite(z) & (z > 0) & (z < SENTINEL_M)]
    metres = values.dtype.kind == "f" and known.size and np.median(known) <= PLAUSIBLE_M[1]
    return 1.0 if metres else 0.001


def points_of_depth(depth_m: Float64[np.ndarray, "H W"], camera: Intrinsics) -> Points:
    """Points in metres of depths in metres; 0, negative depths, NaN and infinity are no reading.

    x = (u - cx) z / fx,  y = (v - cy) z / fy       (pinhole)
    """
    z = np.maximum(np.nan_to_num(depth_m, posinf=0, neginf=0), 0)
    v, u = np.indices(z.shape)
    x, y = (u - camera.cx) * z / camera.fx, (v - camera.cy) * z / camera.fy
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def measured_points(path: Path, xyz: Float64[np.ndarray, "H W 3"], unit_m: float) -> Points:
    """Points in metres, (0, 0, 0) where a coordinate is no number or z is not in front.

    Raises InputError if many z are negative, or the median cannot be a distance in metres.
    """
    known = _numbers(xyz * unit_m)
    z = np.where(known, xyz[..., 2], 0)
    if (z < 0).sum() > MOST_BEHIND * (z > 0).sum():
        raise InputError(
            f"{path}: {(z < 0).sum()} points have z < 0, expected z to grow away from the camera; "
            "export the cloud in the camera's frame"
        )
    known &= z > 0
    known &= ~_sentinels(z, known)
    require_plausible(path, z[known], unit_m)
    return np.where(known[..., None], xyz * unit_m, 0).astype(np.float32)


def _sentinels(
    z: Float64[np.ndarray, "H W"], known: Bool[np.ndarray, "H W"]
) -> Bool[np.ndarray, "H W"]:
    """True at repeated equal depths beyond `FAR` medians, by which a camera marks no reading."""
    far = known & (z > FAR * np.median(z[known])) if known.any() else known
    repeated = far.sum() > 1 and z[far].min() == z[far].max()
    return far if repeated else np.zeros_like(far)


def _numbers(xyz_m: Float64[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    return (np.nan_to_num(np.abs(xyz_m), nan=np.inf) < SENTINEL_M).all(axis=-1)


def require_plausible(path: Path, z: Float64[np.ndarray, " N"], unit_m: float) -> None:
    """Raises InputError unless half of the depths, in this unit, are scanners' distances."""
    if not z.size:
        raise InputError(f"{path}: no reading at all; leave it out")
    median = float(np.median(z)) * unit_m
    if PLAUSIBLE_M[0] <= median <= PLAUSIBLE_M[1]:
        return
    likely = unit_m * (0.001 if median > PLAUSIBLE_M[1] else 1000)
    raise InputError(
        f"{path}: half of its readings are within {median:.3g} m at {unit_m:g} m per unit, "
        f"expected {PLAUSIBLE_M[0]:g} to {PLAUSIBLE_M[1]:g} m; pass the length of its unit with "
        f"--depth-unit-m, such as {likely:g}"
    )
