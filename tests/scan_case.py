"""Made-up scans of known measures: a box on a ground, and a small one for readers of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SensorScene:
    """What a sensor sees: depths in whole millimetres, 0 without a reading, and a pinhole."""

    depth_mm: np.ndarray
    rgb: np.ndarray
    focal: float = 40.0
    centre: tuple[float, float] = (15.0, 12.5)

    @property
    def xyz(self) -> np.ndarray:
        """Metres, (0, 0, 0) without a reading."""
        v, u = np.indices(self.depth_mm.shape)
        z = self.depth_mm / 1000
        x, y = (u - self.centre[0]) * z / self.focal, (v - self.centre[1]) * z / self.focal
        return np.stack([x, y, z], axis=-1)

    @property
    def camera(self) -> dict[str, Any]:
        """The intrinsics by the names most software uses."""
        (cx, cy), (height, width) = self.centre, self.depth_mm.shape
        return {
            **{"width": width, "height": height, "fx": self.focal, "fy": self.focal},
            **{"cx": cx, "cy": cy},
        }

    def matrix(self, times: int = 1) -> list[list[float]]:
        """K by rows, of an image of `times` the size."""
        cx, cy = ((c + 0.5) * times - 0.5 for c in self.centre)
        focal = self.focal * times
        return [[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]]


def sensor_scene() -> SensorScene:
    """24 x 32 px; 20 pixels and the last row have no reading."""
    rng = np.random.default_rng(0)
    depth = rng.integers(400, 600, (24, 32)).astype(np.uint16)
    depth.flat[rng.choice(depth.size, 20, replace=False)] = 0
    depth[-1] = 0
    return SensorScene(depth, rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))


def cloud_fields(**values: np.ndarray) -> np.ndarray:
    """A structured array with a field for each value of each pixel, row by row."""
    columns = {name: np.asarray(value).ravel() for name, value in values.items()}
    found = np.empty(len(next(iter(columns.values()))), [(n, c.dtype) for n, c in columns.items()])
    for name, column in columns.items():
        found[name] = column
    return found


PLY_TYPES = {"f4": "float", "u1": "uchar", "u4": "uint"}


def write_ply(
    path: Path, elements: dict[str, np.ndarray], about: tuple[str, ...] = (), text: bool = False
) -> None:
    """Elements by name, in their order, each a structured array; `about`: lines of the header."""
    lines = ["ply", f"format {'ascii' if text else 'binary_little_endian'} 1.0", *about]
    for name, rows in elements.items():
        lines.append(f"element {name} {len(rows)}")
        types = {n: rows.dtype[n].str[1:] for n in rows.dtype.names or ()}
        lines += [f"property {PLY_TYPES[kind]} {n}" for n, kind in types.items()]
    bodies = [_as_text(rows) if text else rows.tobytes() for rows in elements.values()]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + b"".join(bodies))


def write_pcd(path: Path, rows: np.ndarray, size: tuple[int, ...], text: bool = False) -> None:
    """An organised cloud of (height, width), as the Point Cloud Library writes it."""
    names = rows.dtype.names or ()
    kinds = [rows.dtype[n].str[1].upper() for n in names]
    header = (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {' '.join(names)}\n"
        f"SIZE {' '.join(rows.dtype[n].str[2] for n in names)}\nTYPE {' '.join(kinds)}\n"
        f"COUNT {' '.join('1' for _ in names)}\nWIDTH {size[1]}\nHEIGHT {size[0]}\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(rows)}\nDATA {'ascii' if text else 'binary'}\n"
    )
    path.write_bytes(header.encode() + (_as_text(rows) if text else rows.tobytes()))


def _as_text(rows: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()).encode()
