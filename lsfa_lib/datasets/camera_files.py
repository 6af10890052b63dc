"""Cameras in the files of common software: JSON, YAML, XML, CSV and text."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from lsfa_lib.datasets.image_files import decoding
from lsfa_lib.storage.files import InputError

NAMES = {
    "fx": ("fx", "focal_length_x", "focal_x", "fl_x", "f_x"),
    "fy": ("fy", "focal_length_y", "focal_y", "fl_y", "f_y"),
    "cx": ("cx", "ppx", "principal_point_x", "center_x", "c_x", "px"),
    "cy": ("cy", "ppy", "principal_point_y", "center_y", "c_y", "py"),
}
MATRICES = ("intrinsic_matrix", "k", "camera_matrix", "intrinsics", "intrinsic", "matrix")
SIZES = {
    "width": ("width", "image_width", "w", "resolution x"),
    "height": ("height", "image_height", "h", "resolution y"),
}
BOTH_SIZES = ("resolution", "image_size", "size")
"""A list or a block of width and height."""
UNITS = ("depth_unit_m", "z_multiplication_factor", "depth_scale", "depth_units", "depth_unit")
COUNTED = ("depth_factor", "png_depth_scale", "depth_map_factor", "scale")
"""Depth units per metre; 1 is ignored, as the default of unrelated scales."""
DISTORTIONS = (
    *("distortion", "distortion_coefficients", "distortion_coeffs", "dist_coeffs", "coeffs"),
    *("k1", "k2", "k3", "p1", "p2", "d"),
)
LEAST_DISTORTION = 1e-3
"""Smaller coefficients are neglected."""
ELSEWHERE = (
    *("extrinsic", "rotation", "translation", "pose"),
    *("rectification_matrix", "projection_matrix"),
)
"""Words in the names of blocks whose matrices are not intrinsics."""
APART_PX = 0.01
"""Tolerance for numbers of one camera that are given twice, px; also for skew."""
READ = (
    "fx, fy, cx, cy (or ppx, ppy) in pixels, or a 3 x 3 matrix `K`, `camera_matrix` or "
    "`intrinsic_matrix`, as .json, .yaml, .xml or .txt, alone or under `depth`"
)


def read_cameras(path: Path) -> tuple[dict[str, dict[str, Any]], float]:
    """Values of each camera in a file by its name, and metres per unit of depth (0: not given).

    The values are those of `NAMES` and `SIZES`, px, None where missing, and `distorted`, which
    names the distortion or skew that the file gives. Raises InputError for a file that cannot be
    read or that contradicts itself.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the camera's file")
    with decoding(path):
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell writes text
        text = content.decode("utf-16" if wide else "utf-8-sig")
    try:
        values = _parsed(path, text)
        found = list(_cameras(values))
        metres = _unit(path, values)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply; expected {READ}") from error
    except (ValueError, yaml.YAMLError, ElementTree.ParseError, TypeError) as error:
        kind = path.suffix.lower().removeprefix(".") or "text"
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as {kind.upper()} ({reason}); fix it") from error
    return _distinct(found), metres


def _distinct(found: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The cameras by name; repetitions are left out."""
    kept: dict[str, dict[str, Any]] = {}
    for name, camera in found:
        if not any(all(_same(camera[n], own[n]) for n in NAMES | SIZES) for own in kept.values()):
            kept[name] = camera
    return kept


def _same(a: Any, b: Any) -> bool:
    return a == b or (is_number(a) and is_number(b) and abs(a - b) < APART_PX)


def _parsed(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".xml":
        # Some writers put several elements side by side, which XML allows only under a root.
        body = text.partition("?>")[2] or text
        return _of_xml(ElementTree.fromstring(f"<camera>{body}</camera>"))
    if suffix == ".json":
        return json.loads(text)
    if suffix in (".txt", ".csv"):
        # A name and a number a line, as the RealSense Viewer writes them.
        line = r"^ *([a-z][\w ]*?) *[,:=] *([-+.\de]+) *[,;]? *(?:#.*)?$"
        named = re.findall(line, text, re.IGNORECASE | re.MULTILINE)
        if named:
            return {name: float(number) for name, number in named}
        rows = [
            [float(word) for word in re.split(r"[\s,;]+", r.strip()) if word]
            for r in text.splitlines()
            if r.strip()
        ]
        return {"k": [row[:3] for row in rows[:3]] if len(rows) > 1 else rows[0] if rows else []}
    # OpenCV's own header and tags.
    return yaml.safe_load(re.sub(r"^%YAML.*|!!opencv-\w+", "", text, flags=re.MULTILINE))


def _of_xml(element: ElementTree.Element) -> Any:
    if len(element):
        found: dict[str, Any] = {}
        for child in element:
            found.setdefault(child.tag, _of_xml(child))
        return found
    words = (element.text or "").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return element.text
    return numbers[0] if len(numbers) == 1 else numbers


def _cameras(values: Any, name: str = "camera") -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and values of each block with a number of a camera; outer blocks first."""
    if not isinstance(values, Mapping):
        return
    own = {str(key).lower(): value for key, value in values.items()}
    found = {
        n: next((_number(own[s]) for s in spellings if s in own), None)
        for n, spellings in (NAMES | SIZES).items()
    }
    if found["width"] is None:
        found |= next((size for key in BOTH_SIZES if (size := _size(own.get(key)))), {})
    matrix = next((m for key in MATRICES if (m := _matrix(own.get(key)))), None)
    skew = 0.0
    if matrix:
        read = {"fx": matrix[0], "cx": matrix[2], "fy": matrix[4], "cy": matrix[5]}
        if two := [n for n in read if found[n] is not None and not _same(found[n], read[n])]:
            raise ValueError(
                f"{two[0]} is {found[two[0]]} and, in a matrix, {read[two[0]]}; keep one of them"
            )
        found, skew = found | read, matrix[1]
    inside = {k: v for k, v in values.items() if not any(w in str(k).lower() for w in ELSEWHERE)}
    if any(found[n] is not None for n in NAMES):
        yield name, found | {"distorted": _distorted(own, skew)}
    for key, value in inside.items():
        for inner, camera in _cameras(value, str(key)):
            known = {n: camera[n] if camera[n] is not None else found[n] for n in SIZES}
            known["distorted"] = camera["distorted"] or _distorted(own, 0.0)
            yield (inner if inner == str(key) else f"{key}.{inner}"), camera | known


def _size(value: Any) -> dict[str, Any]:
    """Width and height of a list or a block; {} for anything else."""
    if isinstance(value, list) and len(value) == 2:
        return {"width": _number(value[0]), "height": _number(value[1])}
    if isinstance(value, Mapping) and {"width", "height"} <= value.keys():
        return {name: _number(value[name]) for name in SIZES}
    return {}


def _distorted(own: Mapping[str, Any], skew: float) -> str:
    """Names the distortion or skew of a camera; "" for an ideal pinhole camera."""
    if abs(skew) > APART_PX:
        return f"a skew of {skew:g}"
    for name in DISTORTIONS:
        value = own.get(name)
        value = value.get("data", list(value.values())) if isinstance(value, Mapping) else value
        if name == "d" and not isinstance(value, list):
            continue
        numbers = [_number(each) for each in chain(*map(_listed, _listed(value)))]
        if any(is_number(each) and abs(each) > LEAST_DISTORTION for each in numbers):
            return f"{name} of a lens distortion"
    return ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matrix(value: Any) -> list[float] | None:
    """Nine numbers row by row of a 3 x 3 matrix, written flat or nested, by rows or columns.

    Its last row is (0, 0, 1). Of a 4 x 4 matrix the first three rows and columns; four numbers are
    fx, fy, cx, cy. Raises ValueError for anything else.
    """
    if isinstance(value, Mapping):
        value = value.get("data")
    if not isinstance(value, list) or not value:
        return None
    nested = isinstance(value[0], list)
    flat = [_number(each) for each in (chain(*value) if nested else value)]
    if len(flat) == 16:
        flat = [flat[4 * row + column] for row in range(3) for column in range(3)]
    if len(flat) == 4 and not nested:
        flat = [flat[0], 0.0, flat[2], 0.0, flat[1], flat[3], 0.0, 0.0, 1.0]
    if len(flat) != 9 or not all(map(is_number, flat)):
        raise ValueError(f"a matrix of {len(flat)} values, expected 3 x 3 numbers")
    by_columns = [flat[3 * column + row] for row in range(3) for column in range(3)]
    for matrix in (flat, by_columns):
        if matrix[6:] == [0, 0, 1]:
            return [float(each) for each in matrix]
    raise ValueError("a matrix without the last row 0 0 1")


def _unit(path: Path, values: Any) -> float:
    """Metres per unit of depth anywhere in the file; 0 if it does not say."""
    if not isinstance(values, Mapping):
        return 0.0
    own = {str(key).lower(): value for key, value in values.items()}
    for name in UNITS:
        if own.get(name) is not None:
            said = own[name]
            words = {"m": 1.0, "mm": 0.001}
            unit = words.get(said.lower(), _number(said)) if isinstance(said, str) else said
            if not is_number(unit) or unit <= 0:
                raise InputError(f"{path}: {name} is {said!r}, expected metres above 0; fix it")
            return float(unit if unit <= 1 else 1 / unit)
    for name in COUNTED:
        if is_number(count := _number(own.get(name))) and count > 0 and count != 1:
            return float(1 / count if count > 1 else count)
    return next((unit for each in own.values() if (unit := _unit(path, each))), 0.0)


def _number(value: Any) -> Any:
    """The number that a text spells; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def is_number(value: Any) -> bool:
    """True for a finite number that a camera can have."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and abs(value) < 1e9
