"""A map of the encoders' square in the frame of the input: as TIFF, overlay and coloured cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from scipy import ndimage

from lsfa_lib.datasets.plane import readings_of
from lsfa_lib.figures.scan_images import DEFECT_RGB, TOP, level_of, shades
from lsfa_lib.records import Mask, Points, Rgb
from lsfa_lib.storage.files import atomic_write

BLEND = 0.6
"""Share of the map's colour in an overlay."""
VERTEX = [
    *((axis, "<f4") for axis in "xyz"),
    *((colour, "u1") for colour in ("red", "green", "blue")),
    ("score", "<f4"),
]


def in_frame(anomaly_map: Float[torch.Tensor, "S S"], part: Mask) -> Float32[np.ndarray, "H W"]:
    """The map, interpolated bilinearly to the pixels of the input; NaN off the part."""
    height, width = part.shape
    side = max(height, width)
    square = F.interpolate(anomaly_map[None, None].cpu(), (side, side), mode="bilinear")[0, 0]
    top, left = (side - height) // 2, (side - width) // 2
    found = square[top : top + height, left : left + width].numpy().astype(np.float32)
    return np.where(part, found, np.float32(np.nan))


def overlay(
    rgb: Rgb,
    anomaly_map: Float32[np.ndarray, "H W"],
    bounds: tuple[float, float],
    threshold: float,
) -> Rgb:
    """The photo in grey with the map's colours on the part; areas above the threshold outlined."""
    part = np.isfinite(anomaly_map)
    red, green, blue = np.moveaxis(rgb, 2, 0).astype(np.uint16)
    grey = (red + green + blue) / 3
    image = grey.astype(np.uint8)[..., None].repeat(3, axis=2)
    colours = shades(TOP + 1)[level_of(anomaly_map[part], bounds)]
    image[part] = (1 - BLEND) * grey[part][:, None] + BLEND * colours
    marked = np.nan_to_num(anomaly_map, nan=-np.inf) > threshold
    width = max(1, max(part.shape) // 200)
    image[ndimage.binary_dilation(marked, iterations=width) & ~marked] = DEFECT_RGB
    return image


def write_map(path: Path, anomaly_map: Float32[np.ndarray, "H W"]) -> None:
    """Writes the map as float32 TIFF, losslessly compressed."""
    with atomic_write(path) as file:
        tifffile.imwrite(
            file, anomaly_map, compression="zlib", predictor=True, metadata=None, software=False
        )


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes the image as PNG."""
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, compress_level=1)


def write_cloud(
    path: Path, xyz: Points, colours: Rgb, anomaly_map: Float32[np.ndarray, "H W"]
) -> None:
    """Writes every reading with its colour and score as binary PLY, coordinates as in the input.

    The score is 0 off the part.
    """
    readings = readings_of(xyz)
    vertices = np.empty(int(readings.sum()), VERTEX)
    for axis, values in zip("xyz", xyz[readings].T, strict=True):
        vertices[axis] = values
    for colour, values in zip(("red", "green", "blue"), colours[readings].T, strict=True):
        vertices[colour] = values
    vertices["score"] = np.nan_to_num(anomaly_map[readings])
    kinds = {"<f4": "float", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    lines += [f"property {kinds[kind]} {name}" for name, kind in VERTEX]
    header = "\n".join([*lines, "end_header", ""])
    with atomic_write(path) as file:
        file.write_bytes(header.encode("ascii") + vertices.tobytes())
