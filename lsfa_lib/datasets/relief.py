"""A surface as an image: a relief lit from the upper left, and a depth image shaded by it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from lsfa_lib.records import Mask, Points, Rgb

SHADED_PX = 400
"""Largest side at which a depth image is shaded, which is for the eye only."""
DARKEST = 0.35
"""Brightness of the farthest readings, relative to the nearest."""


def shaded_depth(xyz: Points) -> Rgb:
    """Grey picture of points in metres: their relief, the darker the farther; black: no reading.

    It is the image of a scan that has no colour. The nearest and farthest 1 % set the range.
    """
    short, long = sorted(xyz.shape[:2])
    step = max(1, min(-(-long // SHADED_PX), short // 2))
    points = xyz[::step, ::step].astype(np.float64) * 1000
    z = points[..., 2]
    if short < 2 or not (valid := z > 0).any():
        return np.zeros(xyz.shape, np.uint8)
    near, far = np.percentile(z[valid], (1, 99))
    depth = np.clip((z - near) / max(far - near, 1e-9), 0, 1)
    grey = relief(points, valid) * (1 - (1 - DARKEST) * depth)
    size = xyz.shape[1], xyz.shape[0]
    image = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    return np.where(xyz[..., 2] > 0, np.asarray(image), 0)[..., None].repeat(3, 2).astype(np.uint8)


def relief(xyz: Float[np.ndarray, "H W 3"], valid: Mask) -> UInt8[np.ndarray, "H W"]:
    """The surface alone, lit from the upper left: bright where it leans there."""
    # Missing readings take the nearest measured one, so that holes do not cast false edges.
    near = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled = ndimage.gaussian_filter(xyz[tuple(near)], (1.2, 1.2, 0))
    normals = np.cross(np.gradient(filled, axis=0), np.gradient(filled, axis=1))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True) + 1e-12
    right, up, near = photo_axes(xyz, valid)
    flat = normals[valid].mean(axis=0)
    lean = (normals - flat) * (1 if flat @ near > 0 else -1)
    shade = 0.6 + 0.6 * (lean @ (up - right))
    return np.where(valid, np.clip(shade, 0.05, 1) * 255, 0).astype(np.uint8)


def photo_axes(xyz: Float[np.ndarray, "H W 3"], valid: Mask) -> Float[np.ndarray, "3 3"]:
    """Unit vectors, as rows: the photo's right, the photo's up, and towards the camera.

    Right and down are those of the plane that fits the coordinates over rows and columns best, so
    that any camera's axes, mirrored ones too, are shown as the photo shows the part.
    """
    rows, columns = np.nonzero(valid)
    places = np.stack((columns, rows, np.ones(len(rows))), axis=1)
    right, down = np.linalg.lstsq(places, xyz[valid], rcond=None)[0][:2]
    right = right / (np.linalg.norm(right) + 1e-12)
    down = down - (down @ right) * right
    down /= np.linalg.norm(down) + 1e-12
    near = np.cross(right, down)
    # The camera is at the origin of the coordinates.
    near *= -1 if near @ xyz[valid].mean(axis=0) > 0 else 1
    return np.stack((right, -down, near))
