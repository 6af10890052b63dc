"""Your own camera: an organised .pcd, or a depth image with its intrinsics, as organised points."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from lsfa_lib.files import InputError
from lsfa_lib.open3d_import import load_open3d


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera in pixels, and what one unit of its depth image is in metres."""

    fx: float
    fy: float
    cx: float
    cy: float
    metres: float = 0.001


def read_organised_pcd(
    path: Path,
) -> tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "H W 3"]]:
    """Colour and points of a .pcd that keeps its rows and columns; (0, 0, 0) without a reading.

    Raises InputError where the file has no colour, or has lost its rows (HEIGHT 1).
    """
    width, height = (_header_number(path, key) for key in ("WIDTH", "HEIGHT"))
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
    """Points in metres of a depth image (.png or .tiff) whose 0 is no reading.

    x = (u - cx) z / fx,  y = (v - cy) z / fy       (pinhole)
    """
    depth = _read_plane(path)
    if depth.ndim != 2:
        raise InputError(
            f"{path}: an image of shape {depth.shape}, wanted one channel of depths; "
            "give the depth image, not the colour image"
        )
    z = np.nan_to_num(depth.astype(np.float64) * camera.metres, posinf=0, neginf=0)
    v, u = np.indices(z.shape)
    x, y = (u - camera.cx) * z / camera.fx, (v - camera.cy) * z / camera.fy
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def read_intrinsics(path: Path) -> Intrinsics:
    """Intrinsics from an .xml whose <depth> holds focal lengths, principal point and depth unit."""
    names = {
        "fx": "focal_length_x",
        "fy": "focal_length_y",
        "cx": "principal_point_x",
        "cy": "principal_point_y",
        "metres": "z_multiplication_factor",
    }
    text = path.read_text()
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


def _header_number(path: Path, key: str) -> int:
    with path.open("rb") as file:
        for line in file:
            words = line.split()
            if words[:1] == [key.encode()]:
                return int(words[1])
            if words[:1] == [b"DATA"]:
                break
    raise InputError(f"{path}: no {key} in its header, wanted a .pcd; convert the cloud to .pcd")


def _read_plane(path: Path) -> Shaped[np.ndarray, "*sizes"]:
    if path.suffix.lower() in (".tif", ".tiff"):
        return tifffile.imread(path)
    with Image.open(path) as image:
        return np.asarray(image)
