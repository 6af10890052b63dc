"""Your own camera: an organised cloud, or a depth image and intrinsics, as organised points."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from lsfa_lib.datasets.image_files import read_any
from lsfa_lib.records import Points, Rgb
from lsfa_lib.storage.files import InputError
from lsfa_lib.storage.open3d import load_open3d

XML_TAGS = (
    *("focal_length_x", "focal_length_y", "principal_point_x", "principal_point_y"),
    "z_multiplication_factor",
)


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera in pixels, and the length of one unit of its depth image in metres."""

    fx: float
    fy: float
    cx: float
    cy: float
    metres: float = 0.001


def read_organised_cloud(path: Path) -> tuple[Rgb, Points]:
    """Colour and points of a cloud that keeps its rows and columns; (0, 0, 0) without a reading.

    A .pcd stores them as WIDTH and HEIGHT, a .ply as `obj_info num_cols` and `obj_info num_rows`.
    Raises InputError if the file has no colour or is not organised.
    """
    names = ("num_cols", "num_rows") if path.suffix.lower() == ".ply" else ("WIDTH", "HEIGHT")
    width, height = (_header_number(path, name) for name in names)
    cloud = load_open3d().io.read_point_cloud(str(path), remove_nan_points=False)
    if height < 2 or len(cloud.points) != width * height:
        raise InputError(
            f"{path}: {len(cloud.points)} points of {width} x {height}, expected an organised "
            "cloud with its rows and columns; export it again without filtering its points"
        )
    if not cloud.has_colors():
        raise InputError(
            f"{path}: no colour field, expected rgb or rgba; export the cloud with its colours"
        )
    points = np.asarray(cloud.points, np.float32).reshape(height, width, 3)
    colours = np.asarray(cloud.colors).reshape(height, width, 3)
    measured = np.isfinite(points).all(-1, keepdims=True)
    return np.rint(colours * 255).astype(np.uint8), np.where(measured, points, np.float32(0))


def read_depth(path: Path, camera: Intrinsics) -> Points:
    """Points in metres of a depth image (.png, .tiff or .exr) whose 0 or NaN is no reading."""
    depth = read_any(path)
    if depth.ndim != 2:
        raise InputError(
            f"{path}: an image of shape {depth.shape}, expected one channel of depths; "
            "give the depth image, not the colour image"
        )
    return points_of_depth(depth.astype(np.float64) * camera.metres, camera)


def points_of_depth(depth_m: Float64[np.ndarray, "H W"], camera: Intrinsics) -> Points:
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
    the depth images, 1 mm by default. Raises InputError.
    """
    is_json = path.suffix.lower() == ".json"
    try:
        found = (_of_json if is_json else _of_xml)(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); give its path") from error
    except (ValueError, ElementTree.ParseError) as error:
        kind = "JSON" if is_json else "XML"
        raise InputError(f"{path}: not readable as {kind} ({error}); restore the file") from error
    missing = [name for name, value in found.items() if not isinstance(value, int | float)]
    if missing:
        place = "" if is_json else " under <depth>"
        raise InputError(
            f"{path}: no number {', '.join(missing)}{place}; write the camera's values there"
        )
    return Intrinsics(*(float(value) for value in found.values()))


def _of_json(text: str) -> dict[str, Any]:
    found = json.loads(text)
    found = found if isinstance(found, dict) else {}
    if isinstance(matrix := found.get("intrinsic_matrix"), list) and len(matrix) == 9:
        # Open3D writes its matrices column by column.
        found |= {"fx": matrix[0], "fy": matrix[4], "cx": matrix[6], "cy": matrix[7]}
    values = {name: found.get(name) for name in ("fx", "fy", "cx", "cy")}
    return values | {"depth_unit_m": found.get("depth_unit_m", 0.001)}


def _of_xml(text: str) -> dict[str, Any]:
    # Some writers put several elements side by side, which XML allows only under a root.
    body = text.partition("?>")[2] or text
    depth = ElementTree.fromstring(f"<camera>{body}</camera>").find(".//depth")
    found = {} if depth is None else {child.tag: child.text for child in depth if child.text}
    return {tag: float(found[tag]) if tag in found else None for tag in XML_TAGS}


def _header_number(path: Path, key: str) -> int:
    with path.open("rb") as file:
        for line in file:
            words = line.removeprefix(b"obj_info ").split()
            if words[:1] == [key.encode()] and len(words) == 2 and words[1].isdigit():
                return int(words[1])
            if words[:1] in ([b"DATA"], [b"end_header"]):
                break
    raise InputError(
        f"{path}: no {key} in its header, expected a cloud with its rows and columns; export "
        "it organised, as .pcd"
    )
