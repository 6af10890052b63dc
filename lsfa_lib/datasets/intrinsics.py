"""Intrinsics of a pinhole camera: read from the files of common software, checked, scaled."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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
UNITS = ("depth_unit_m", "z_multiplication_factor", "depth_scale", "depth_units", "depth_unit")
COLOUR, DEPTH = ("color", "colour", "rgb"), ("depth",)
READ = (
    "fx, fy, cx, cy (or ppx, ppy) in pixels, or a 3 x 3 matrix `K`, `camera_matrix` or "
    "`intrinsic_matrix`, as .json, .yaml, .xml or .txt, alone or under `depth`"
)
ASPECT = 0.005
"""Image and camera file may differ in width / height by this share."""
WIDEST_DEG = 170.0
"""No pinhole camera sees more; a focal length in millimetres instead of pixels does."""


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera in pixels, and the length of one unit of its depth image in metres."""

    fx: float
    fy: float
    cx: float
    cy: float
    """Pixel centres have whole numbers."""
    metres: float = 0.0
    """0: unknown; 1 mm for whole numbers, recognised from the median for others."""
    width: int = 0
    height: int = 0
    """Size of the images these values belong to, px; 0: unknown."""
    colour: Intrinsics | None = None
    """Those of the colour camera, where the file has both; both cameras see from one place."""
    path: Path | None = field(default=None, compare=False)
    """The file they were read from, for error messages."""


def read_intrinsics(path: Path) -> Intrinsics:
    """Intrinsics from a file of the forms in `READ`; row- and column-wise matrices are told apart.

    `depth_unit_m` (or `depth_scale`, `z_multiplication_factor`) is the length of one unit of the
    depth images; a scale above 1 counts units per metre. Raises InputError.
    """
    with decoding(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        values = _parsed(path, text)
        cameras = dict(_cameras(values))
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply; expected {READ}") from error
    except (ValueError, yaml.YAMLError, ElementTree.ParseError, TypeError) as error:
        kind = path.suffix.lower().removeprefix(".") or "text"
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as {kind.upper()} ({reason}); fix it") from error
    named = {role: _named(cameras, words) for role, words in (("d", DEPTH), ("c", COLOUR))}
    depth = named["d"] or named["c"]
    if depth is None and len(cameras) > 1:
        raise InputError(
            f"{path}: {len(cameras)} cameras ({', '.join(cameras)}); keep the one of the depth "
            "images, or call it `depth`"
        )
    found = depth or next(iter(cameras.values()), {})
    if missing := [name for name in NAMES if not _is_number(found.get(name))]:
        raise InputError(f"{path}: no number {', '.join(missing)}; expected {READ}")
    camera = _checked(path, found, _unit(path, values))
    if named["d"] and named["c"] and all(_is_number(named["c"].get(name)) for name in NAMES):
        colour = _checked(path, named["c"], camera.metres)
        camera = replace(camera, colour=None if colour == camera else colour)
    return camera


def at_size(camera: Intrinsics, width: int, height: int, image: Path) -> Intrinsics:
    """The intrinsics of an image of this size.

    Those of another size with the same aspect are scaled: fx' = s fx, cx' = s (cx + 1/2) - 1/2.
    Raises InputError naming the camera's file if the aspect or the principal point cannot belong
    to the image.
    """
    where = camera.path or image
    scales = (width / camera.width, height / camera.height) if camera.width else (1.0, 1.0)
    if abs(scales[0] / scales[1] - 1) > ASPECT:
        raise InputError(
            f"{where}: intrinsics of {camera.width} x {camera.height} px, but {image} is {width} x "
            f"{height} px; give those of this image"
        )
    found = replace(
        camera,
        fx=camera.fx * scales[0],
        fy=camera.fy * scales[1],
        cx=(camera.cx + 0.5) * scales[0] - 0.5,
        cy=(camera.cy + 0.5) * scales[1] - 0.5,
        width=width,
        height=height,
    )
    if not (-0.5 < found.cx < width - 0.5 and -0.5 < found.cy < height - 0.5) or (
        found.cx == found.cy == 0
    ):
        raise InputError(
            f"{where}: the principal point ({found.cx:g}, {found.cy:g}) is not inside {image} of "
            f"{width} x {height} px; give the intrinsics of this image, in pixels"
        )
    for focal, side in ((found.fx, width), (found.fy, height)):
        if side > 1 and math.degrees(2 * math.atan(side / 2 / focal)) > WIDEST_DEG:
            raise InputError(
                f"{where}: a focal length of {focal:g} px for {side} px of {image} is more than "
                f"{WIDEST_DEG:g} degrees of view; give it in pixels"
            )
    return found


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
        named = re.findall(r"^ *([a-z][\w ]*?) *[,:=] *([-+.\de]+) *$", text, re.I | re.M)
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
        n: next((own[s] for s in spellings if s in own), None)
        for n, spellings in (NAMES | SIZES).items()
    }
    matrix = next((m for key in MATRICES if (m := _matrix(own.get(key)))), None)
    if matrix:
        found |= {"fx": matrix[0], "cx": matrix[2], "fy": matrix[4], "cy": matrix[5]}
    if any(found[n] is not None for n in NAMES):
        yield name, found
        return
    for key, value in values.items():
        for inner, camera in _cameras(value, str(key)):
            known = {n: camera[n] if camera[n] is not None else found[n] for n in SIZES}
            yield (inner if inner == str(key) else f"{key}.{inner}"), camera | known


def _matrix(value: Any) -> list[float] | None:
    """Nine numbers row by row of a 3 x 3 matrix, written flat or nested, by rows or columns.

    Its last row is (0, 0, 1). Raises ValueError if neither reading has that.
    """
    if isinstance(value, Mapping):
        value = value.get("data")
    if not isinstance(value, list) or not value:
        return None
    nested = isinstance(value[0], list)
    flat = [each for row in value for each in row] if nested else value
    if len(flat) != 9 or not all(map(_is_number, flat)):
        raise ValueError(f"a matrix of {len(flat)} values, expected 3 x 3 numbers")
    by_columns = [flat[3 * column + row] for row in range(3) for column in range(3)]
    for matrix in (flat, by_columns):
        if matrix[6:] == [0, 0, 1]:
            return [float(each) for each in matrix]
    raise ValueError("a matrix without the last row 0 0 1")


def _named(cameras: dict[str, dict[str, Any]], words: tuple[str, ...]) -> dict[str, Any] | None:
    return next((c for name, c in cameras.items() if any(w in name.lower() for w in words)), None)


def _unit(path: Path, values: Any) -> float:
    """Metres per unit of depth anywhere in the file; 0 if it does not say."""
    if not isinstance(values, Mapping):
        return 0.0
    own = {str(key).lower(): value for key, value in values.items()}
    for name in UNITS:
        if name in own:
            unit = {"m": 1.0, "mm": 0.001}.get(own[name], own[name])
            if not _is_number(unit) or unit <= 0:
                raise InputError(f"{path}: {name} is {unit!r}, expected metres above 0; fix it")
            return float(unit if unit <= 1 else 1 / unit)
    return next((unit for each in own.values() if (unit := _unit(path, each))), 0.0)


def _checked(path: Path, found: Mapping[str, Any], metres: float) -> Intrinsics:
    fx, fy, cx, cy = (float(found[name]) for name in NAMES)
    if fx <= 0 or fy <= 0 or not 0.5 < fx / fy < 2:
        raise InputError(
            f"{path}: focal lengths {fx:g} and {fy:g} px, expected two similar ones above 0; fix it"
        )
    sizes = [found[name] if _is_number(found[name]) else 0 for name in SIZES]
    if not all(size == int(size) > 0 for size in sizes):
        sizes = [0, 0]
    return Intrinsics(fx, fy, cx, cy, metres, int(sizes[0]), int(sizes[1]), path=path)


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and abs(value) < 1e9
