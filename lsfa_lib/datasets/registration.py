"""Colour on the pixel grid of a depth image whose camera sees from the same place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from lsfa_lib.datasets.intrinsics import ASPECT, Intrinsics, at_size
from lsfa_lib.records import Mask, Rgb
from lsfa_lib.storage.files import InputError

SAME_PX = 0.5
"""Two cameras whose pixels differ by less are one."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a depth image lie in a colour image: u' = scale u + shift, by axis."""

    width: int
    height: int
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)


def grid_of(
    depth: Path,
    size: tuple[int, int],
    colour: Path,
    colour_size: tuple[int, int],
    camera: Intrinsics | None,
) -> Grid:
    """How to bring the colour image onto the depth image; sizes are (width, height).

    The map follows from the intrinsics of both cameras, or from the sizes if there is one camera
    and the aspect is the same. Raises InputError where neither tells it.
    """
    if camera is None or camera.colour is None or size == colour_size:
        if abs(size[0] * colour_size[1] / (size[1] * colour_size[0]) - 1) > ASPECT:
            turned = size == colour_size[::-1]
            remedy = "turn one of them" if turned else "register colour to depth first"
            raise InputError(
                f"{colour}: {colour_size[0]} x {colour_size[1]} px, but {depth} is {size[0]} x "
                f"{size[1]} px; {remedy}"
            )
        scale = colour_size[0] / size[0], colour_size[1] / size[1]
        return Grid(*size, scale, ((scale[0] - 1) / 2, (scale[1] - 1) / 2))
    own, other = at_size(camera, *size, depth), at_size(camera.colour, *colour_size, colour)
    scale = other.fx / own.fx, other.fy / own.fy
    return Grid(*size, scale, (other.cx - scale[0] * own.cx, other.cy - scale[1] * own.cy))


def camera_of_grid(
    camera: Intrinsics, size: tuple[int, int], colour_size: tuple[int, int], depth: Path
) -> Intrinsics:
    """The camera whose grid a depth image has: the colour camera if it was registered to that.

    Raises InputError where the file has two cameras of one size that differ.
    """
    if camera.colour is None or size != colour_size:
        return camera
    fits = [c for c in (camera, camera.colour) if (c.width, c.height) == size]
    if len(fits) != 1:
        first, second = (at_size(c, *size, depth) for c in (camera, camera.colour))
        corner = max(size)
        apart = abs(first.cx - second.cx) + abs(first.cy - second.cy)
        apart += corner * abs(first.fx / second.fx - 1)
        if apart > SAME_PX:
            raise InputError(
                f"{camera.path}: the depth and colour cameras differ, but {depth} has the size of "
                f"both, {size[0]} x {size[1]} px; keep the camera that it is registered to"
            )
    return replace(fits[0] if fits else camera, metres=camera.metres)


def colour_on(grid: Grid, rgb: Rgb) -> UInt8[np.ndarray, "h w 3"]:
    """Mean colour of each pixel of the grid; black outside the colour image."""
    if (grid.width, grid.height, grid.scale) == (rgb.shape[1], rgb.shape[0], (1.0, 1.0)):
        return rgb
    corners = [
        (s * -0.5 + t + 0.5, s * (n - 0.5) + t + 0.5)
        for s, t, n in zip(grid.scale, grid.shift, (grid.width, grid.height), strict=True)
    ]
    margin = max(
        0,
        *(
            int(np.ceil(max(-low, high - side)))
            for (low, high), side in zip(corners, (rgb.shape[1], rgb.shape[0]), strict=True)
        ),
    )
    padded = np.pad(rgb, ((margin, margin), (margin, margin), (0, 0)))
    (left, right), (top, bottom) = corners
    box = (left + margin, top + margin, right + margin, bottom + margin)
    size = (grid.width, grid.height)
    return np.asarray(Image.fromarray(padded).resize(size, Image.Resampling.BOX, box))


def mask_on(grid: Grid, mask: Mask) -> Bool[np.ndarray, "h w"]:
    """True where a pixel of the grid contains the centre of a marked pixel; False outside.

    On a grid finer than the mask: the value of the nearest pixel. Thin defects are thus kept.
    """
    sums = np.pad(mask.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    (left, right), (top, bottom) = (
        _covered(n, side, s, t)
        for n, side, s, t in zip(
            (grid.width, grid.height), mask.shape[::-1], grid.scale, grid.shift, strict=True
        )
    )
    marked = sums[bottom][:, right] - sums[top][:, right]
    return marked - (sums[bottom][:, left] - sums[top][:, left]) > 0


def _covered(
    n: int, side: int, scale: float, shift: float
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First pixel of a side whose centre is in each of the n pixels of the grid, and the last + 1.

    The nearest where there is none.
    """
    centres = np.arange(n) * scale + shift
    first = np.ceil(centres - scale / 2 - 1e-6).astype(int)
    last = np.ceil(centres + scale / 2 - 1e-6).astype(int)
    nearest = np.rint(centres).astype(int)
    none = last <= first
    first, last = np.where(none, nearest, first), np.where(none, nearest + 1, last)
    return first.clip(0, side), last.clip(0, side)
