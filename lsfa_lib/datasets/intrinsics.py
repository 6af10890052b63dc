"""Intrinsics of a pinhole camera: checked, and scaled to the size of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lsfa_lib.datasets.camera_files import NAMES, READ, SIZES, is_number, read_cameras
from lsfa_lib.storage.files import InputError

COLOUR, DEPTH = ("color", "colour", "rgb"), ("depth",)
ASPECT = 0.005
"""Image and camera file may differ in width / height by this share."""
MIDDLE = 1 / 8
"""A principal point this near the middle of an image, as a share of its side, is that image's."""
WIDEST_DEG = 140.0
"""No depth camera sees more without a fisheye lens; a focal length in millimetres does."""


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
    """Intrinsics from a file of the forms in `camera_files.READ`.

    `depth_unit_m` (or `depth_scale`, `z_multiplication_factor`) is the length of one unit of the
    depth images; a scale above 1 counts units per metre. Raises InputError.
    """
    cameras, metres = read_cameras(path)
    named = {role: _named(cameras, words) for role, words in (("d", DEPTH), ("c", COLOUR))}
    others = [name for name, own in cameras.items() if own is not named["c"]]
    depth = named["d"] or (named["c"] if not others else None)
    if depth is None and len(cameras) > 1:
        raise InputError(
            f"{path}: {len(cameras)} cameras ({', '.join(cameras)}); keep the one of the depth "
            "images, or call it `depth`"
        )
    found = depth or next(iter(cameras.values()), {})
    if missing := [name for name in NAMES if not is_number(found.get(name))]:
        raise InputError(f"{path}: no number {', '.join(missing)}; expected {READ}")
    camera = _checked(path, found, metres)
    if named["d"] and named["c"] and all(is_number(named["c"].get(name)) for name in NAMES):
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
    if not camera.width and off_middle(found, width, height) > MIDDLE:
        raise InputError(
            f"{where}: the principal point ({found.cx:g}, {found.cy:g}) is far from the middle of "
            f"{image} of {width} x {height} px; add the width and height that the intrinsics "
            "belong to"
        )
    for focal, side in ((found.fx, width), (found.fy, height)):
        if side > 1 and math.degrees(2 * math.atan(side / 2 / focal)) > WIDEST_DEG:
            raise InputError(
                f"{where}: a focal length of {focal:g} px for {side} px of {image} is more than "
                f"{WIDEST_DEG:g} degrees of view; give it in pixels"
            )
    return found


def off_middle(camera: Intrinsics, width: int, height: int) -> float:
    """Distance of the principal point from the middle of an image, as a share of its sides."""
    x, y = abs(camera.cx - (width - 1) / 2), abs(camera.cy - (height - 1) / 2)
    return max(x / width, y / height)


def _named(cameras: dict[str, dict[str, Any]], words: tuple[str, ...]) -> dict[str, Any] | None:
    return next((c for name, c in cameras.items() if any(w in name.lower() for w in words)), None)


def _checked(path: Path, found: Mapping[str, Any], metres: float) -> Intrinsics:
    fx, fy, cx, cy = (float(found[name]) for name in NAMES)
    if found["distorted"]:
        raise InputError(
            f"{path}: {found['distorted']}, but points are computed with an ideal pinhole camera; "
            "undistort the images, and give the intrinsics of the undistorted ones"
        )
    if fx <= 0 or fy <= 0 or not 0.5 < fx / fy < 2:
        raise InputError(
            f"{path}: focal lengths {fx:g} and {fy:g} px, expected two similar ones above 0; fix it"
        )
    sizes = [found[name] if is_number(found[name]) else 0 for name in SIZES]
    if not all(size == int(size) > 0 for size in sizes):
        sizes = [0, 0]
    return Intrinsics(fx, fy, cx, cy, metres, int(sizes[0]), int(sizes[1]), path=path)
