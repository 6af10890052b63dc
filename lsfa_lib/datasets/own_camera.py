"""Your own camera: an organised cloud, or a depth image and intrinsics, as organised points."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32, Float64, Shaped, UInt8
from PIL import Image

from lsfa_lib.datasets.entry import unreadable
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.open3d import load_open3d


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera in pixels, and what one unit of its depth image is in metres."""

    fx: float
    fy: float
    cx: float
    cy: float
    metres: float = 0.001


def read_organised_cloud(
    path: Path,
) -> tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "H W 3"]]:
    """Colour and points of a cloud that keeps its rows and columns; (0, 0, 0) without a reading.

    A .pcd tells them as WIDTH and HEIGHT, a .ply as `obj_info num_cols` and `obj_info num_rows`.
    Raises InputError where the file has no colour, or has lost its rows.
    """
    names = ("num_cols", "num_rows") if path.suffix.lower() == ".ply" else ("WIDTH", "HEIGHT")
    width, height = (_header_number(path, name) for name in names)
    cloud = load_open3d().io.read_point_cloud(str(path), remove_nan_points=False)
    if height < 2 or len(cloud.points) != width * height:
        raise InputError(
            f"{path}: {len(cloud.points)} points of {width} x {height}, wanted an organised cloud "
            "with its rows and columns; export it again without filtering its points"
        )
    if not cloud.has_colors():
        raise InputError(
            f"{path}: no colour field, wanted rgb or rgba; export the cloud with its colours"
        )
    points = np.asarray(cloud.points, np.float32).reshape(height, width, 3)
    colours = np.asarray(cloud.colors).reshape(height, width, 3)
    measured = np.isfinite(points).all(-1, keepdims=True)
    return np.rint(colours * 255).astype(np.uint8), np.where(measured, points, np.float32(0))


def read_depth(path: Path, camera: Intrinsics) -> Float32[np.ndarray, "H W 3"]:
    """Points in metres of a depth image (.png, .tiff or .exr) whose 0 or NaN is no reading."""
    depth = _read_plane(path)
    if depth.ndim != 2:
        raise InputError(
            f"{path}: an image of shape {depth.shape}, wanted one channel of depths; "
            "give the depth image, not the colour image"
        )
    return points_of_depth(depth.astype(np.float64) * camera.metres, camera)


def points_of_depth(
    depth_m: Float64[np.ndarray, "H W"], camera: Intrinsics
) -> Float32[np.ndarray, "H W 3"]:
    """Points in metres of depths in metres; 0, NaN and infinity are no reading.

    x = (u - cx) z / fx,  y = (v - cy) z / fy       (pinhole)
    """
    z = np.nan_to_num(depth_m, posinf=0, neginf=0)
    v, u = np.indices(z.shape)
    x, y = (u - camera.cx) * z / camera.fx, (v - camera.cy) * z / camera.fy
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def read_intrinsics(path: Path) -> Intrinsics:
    """Intrinsics from a .json with fx, fy, cx, cy in pixels, or an .xml with them under <depth>.

    JSON may hold Open3D's `intrinsic_matrix` instead, and `depth_unit_m`, the length of one unit of
    the depth images, which is 1 mm where nothing is said. Raises InputError.
    """
    if path.suffix.lower() == ".json":
        return _of_json(path)
    names = {
        "fx": "focal_length_x",
        "fy": "focal_length_y",
        "cx": "principal_point_x",
        "cy": "principal_point_y",
        "metres": "z_multiplication_factor",
    }
    text = _text(path)
    # Some writers put several elements side by side, which XML allows only under a root.
    body = text.partition("?>")[2] or text
    try:
        depth = ElementTree.fromstring(f"<camera>{body}</camera>").find(".//depth")
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not readable as XML ({error}); restore the file") from error
    found = {} if depth is None else {field: depth.findtext(tag) for field, tag in names.items()}
    missing = [tag for field, tag in names.items() if not found.get(field)]
    if missing:
        raise InputError(
            f"{path}: no {', '.join(missing)} under <depth>; write the camera's values there"
        )
    return Intrinsics(**{field: float(text) for field, text in found.items() if text})


def _of_json(path: Path) -> Intrinsics:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); restore the file") from error
    found = found if isinstance(found, dict) else {}
    if isinstance(matrix := found.get("intrinsic_matrix"), list) and len(matrix) == 9:
        # Open3D writes its matrices column by column.
        found |= {"fx": matrix[0], "fy": matrix[4], "cx": matrix[6], "cy": matrix[7]}
    values = {name: found.get(name) for name in ("fx", "fy", "cx", "cy")}
    values["metres"] = found.get("depth_unit_m", 0.001)
    wrong = [name for name, value in values.items() if not isinstance(value, int | float)]
    if wrong:
        raise InputError(f"{path}: no number {', '.join(wrong)}; write the camera's values there")
    return Intrinsics(**{name: float(value) for name, value in values.items() if value is not None})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); give its path") from error


def _header_number(path: Path, key: str) -> int:
    with path.open("rb") as file:
        for line in file:
            words = line.removeprefix(b"obj_info ").split()
            if words[:1] == [key.encode()] and len(words) == 2 and words[1].isdigit():
                return int(words[1])
            if words[:1] in ([b"DATA"], [b"end_header"]):
                break
    raise InputError(
        f"{path}: no {key} in its header, wanted a cloud with its rows and columns; export it "
        "organised, as .pcd"
    )


def _read_plane(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return tifffile.imread(path)
        if path.suffix.lower() == ".exr":
            return _read_exr(path)
        with Image.open(path) as image:
            return np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # a damaged header makes readers raise nearly anything
        raise unreadable(path, error) from error


def _read_exr(path: Path) -> Shaped[np.ndarray, "H W"]:
    """The only channel, or the one called Z or depth."""
    import OpenEXR

    with OpenEXR.File(str(path), separate_channels=True) as file:
        channels = file.channels()
        named = [n for n in channels if n.lower().split(".")[-1] in ("z", "depth", "y")]
        chosen = list(channels) if len(channels) == 1 else named
        if len(chosen) != 1:
            raise InputError(
                f"{path}: channels {', '.join(channels)}, wanted one called Z; export depth alone"
            )
        return np.asarray(channels[chosen[0]].pixels)
