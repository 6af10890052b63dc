"""A made-up scan of known measures: a box on a ground, a piece beside it, readings that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from lsfa_lib.config import TINY
from lsfa_lib.datasets.plane import plane_of
from lsfa_lib.demo.rendering import camera_matrix
from lsfa_lib.records import Scan

PITCH_MM = 0.5
TILT_DEG = 3.0
LENGTH_MM, WIDTH_MM, HEIGHT_MM = 60.0, 40.0, 20.0
SIZE = (180, 240)
PIECE_PX = 10


def box_scan(kind: str = "hole", defect: bool = True, name: str = "") -> Scan:
    """60 x 40 x 20 mm at the frame's middle, seen along its axis; ground tilted about y."""
    v, u = np.indices(SIZE)
    x, y = (u - SIZE[1] / 2 + 0.5) * PITCH_MM, (v - SIZE[0] / 2 + 0.5) * PITCH_MM
    height = np.zeros(SIZE)
    height[(np.abs(x) < LENGTH_MM / 2) & (np.abs(y) < WIDTH_MM / 2)] = HEIGHT_MM
    height[15 : 15 + PIECE_PX, 15 : 15 + PIECE_PX] = 12.0
    slope = np.tan(np.radians(TILT_DEG))
    noise = np.random.default_rng(0).normal(0, 0.05, SIZE)
    # Heights are along the ground's normal, points along the camera's axis.
    z = 500 + slope * x - height / np.cos(np.radians(TILT_DEG)) + noise
    xyz = (np.stack((x, y, z), axis=-1) / 1000).astype(np.float32)
    xyz[88:92, 100:110] = 0  # 40 pixels inside the part
    xyz[-12:-11, 60:100] = 0  # 40 pixels of the ground
    marked = np.zeros(SIZE, bool)
    marked[80:86, 130:150] = defect
    return Scan(
        rgb=np.full((*SIZE, 3), 120, np.uint8),
        xyz=xyz,
        defect=marked,
        name=name or f"toy/test/{kind}/000",
        kind=kind,
        path=Path("toy/test/hole/xyz/000.tiff"),
    )


def write_wider(scan: Scan, root: Path, times: int) -> None:
    """Writes a demo scan as a camera of `times` its field of view would have captured it.

    The background plane and its colour fill the larger frame, in MVTec 3D-AD's layout.
    """
    size, side = len(scan.xyz), times * len(scan.xyz)
    line = (np.arange(side) - (side - 1) / 2) / camera_matrix(size)[0, 0]
    rays = np.stack([*np.meshgrid(line, line), np.ones((side, side))], axis=-1)
    *normal, shift = plane_of(scan, TINY.preprocess)
    depth = -shift / (rays @ normal) + np.random.default_rng(0).normal(0, 1e-4, (side, side))
    xyz, gt = (rays * depth[..., None]).astype(np.float32), np.zeros((side, side), np.uint8)
    rgb = np.full((side, side, 3), np.median(scan.rgb[:6], axis=(0, 1)), np.uint8)
    middle = (slice((side - size) // 2, (side + size) // 2),) * 2
    xyz[middle], rgb[middle], gt[middle] = scan.xyz, scan.rgb, scan.defect * 255
    folder, stem = (root / scan.name).parent, Path(scan.name).name
    for kind in ("rgb", "xyz", "gt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(folder / "rgb" / f"{stem}.png")
    tifffile.imwrite(folder / "xyz" / f"{stem}.tiff", xyz, photometric="minisblack")
    Image.fromarray(gt).save(folder / "gt" / f"{stem}.png")
