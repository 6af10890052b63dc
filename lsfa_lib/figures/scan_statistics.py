"""What scans contain, in numbers: background, part, missing readings, defects, in millimetres.

Areas and lengths are those seen along the background plane's normal, from the median distance of
neighbouring readings in a scan: perspective changes them by a few per cent over a part's height.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import ndimage

from lsfa_lib.config import Config, PreprocessConfig
from lsfa_lib.datasets.entry import SPLITS, Entry
from lsfa_lib.datasets.layouts import categories, entries, read_scan
from lsfa_lib.datasets.plane import height_above, middle_plane, plane_of, readings_of
from lsfa_lib.datasets.preprocess import part_of, prepare
from lsfa_lib.figures.scan_images import Mask, depth_in
from lsfa_lib.figures.style import spread_out
from lsfa_lib.records import Scan, is_defective
from lsfa_lib.storage.files import InputError, progress

Region = Literal["part", "background", "loose", "missing"]
REGIONS: tuple[Region, ...] = ("part", "background", "loose", "missing")
"""Where a pixel goes: kept; within reach of the plane; not connected to the part; no reading."""


@dataclass(frozen=True)
class Measured:
    """One scan taken apart by preprocessing, at full size."""

    scan: Scan
    regions: dict[Region, Mask]
    """Every pixel is in one of them."""
    height_mm: Float[np.ndarray, "H W"]
    """Above the background plane, towards the camera; NaN without a reading."""
    plane: Float[np.ndarray, "abcd=4"]
    """Normal towards the camera and offset, metres."""
    pitch_mm: float
    """Distance of neighbouring pixels."""

    @property
    def rise_mm(self) -> float:
        """Height of the part above the plane: the 99.5th percentile of its points."""
        return float(np.percentile(self.height_mm[self.regions["part"]], 99.5))

    @property
    def tilt_deg(self) -> float:
        """Angle between the plane's normal and the camera's axis."""
        return float(np.degrees(np.arccos(min(1.0, abs(self.plane[2])))))


def take_apart(scan: Scan, config: PreprocessConfig) -> Measured:
    """The pixels of a scan by what preprocessing does with them. Raises what preprocessing does.

    Without removal of the background, heights refer to the plane through all readings.
    """
    removed = config.background_removal == "plane"
    plane = plane_of(scan, config) if removed else middle_plane(scan)
    readings, part = readings_of(scan.xyz), part_of(scan, config)
    height = height_above(scan.xyz, plane)
    background = readings & ~part & (np.abs(height) < config.plane_distance_m)
    regions: dict[Region, Mask] = {
        "part": part,
        "background": background,
        "loose": readings & ~part & ~background,
        "missing": ~readings,
    }
    millimetres = np.where(readings, height * 1000, np.float32(np.nan))
    return Measured(scan, regions, millimetres, plane, _pitch_mm(scan.xyz, readings, plane))


def facts(scan: Scan, config: Config) -> dict[str, Any]:
    """All numbers of one scan, as a row of `measure`'s table.

    | column | meaning |
    |---|---|
    | category, split, kind, name | of the scan |
    | defective | the scan lies in a folder of defects |
    | width_px, height_px | of the frame |
    | part, background, loose, missing | shares of the frame, these four sum to 1 |
    | holes | share of the part's own area without a reading |
    | at_edge | the part touches the edge of the frame |
    | length_mm, width_mm | along the part's longest axis, and across it |
    | height_mm | of the part above the plane: its 99.5th percentile |
    | tilt_deg | between the plane's normal and the camera's axis |
    | pitch_mm, patch_mm | distance of neighbouring pixels; side of a patch on the part |
    | patches | with a point of the part |
    | defect_mm2, defect_share | area of the defect, as a share of the part's area; 0 without one |
    | defect_patches | area in patches |
    | defect_width_mm | diameter of the largest circle inside the defect |
    | defect_seen | share of the defect with a point of the part after preprocessing |
    """
    m = take_apart(scan, config.preprocess)
    part, pitch = m.regions["part"], m.pitch_mm
    holes = ndimage.binary_fill_holes(part) & m.regions["missing"]
    surface = part | holes
    length, width = _extent_mm(m)
    patch_px, side = config.projection.patch_px, config.preprocess.image_size
    return {
        "category": scan.name.split("/")[0],
        "split": scan.name.split("/")[1],
        "kind": scan.kind,
        "name": scan.name,
        "defective": is_defective(scan.kind) is True,
        "width_px": part.shape[1],
        "height_px": part.shape[0],
        **{region: float(mask.mean()) for region, mask in m.regions.items()},
        "holes": float(holes.sum() / surface.sum()),
        "at_edge": any(bool(edge.any()) for edge in (part[0], part[-1], part[:, 0], part[:, -1])),
        "length_mm": length,
        "width_mm": width,
        "height_mm": m.rise_mm,
        "tilt_deg": m.tilt_deg,
        "pitch_mm": pitch,
        "patch_mm": patch_px * max(part.shape) / side * pitch,
        "defect_mm2": float(scan.defect.sum() * pitch**2),
        "defect_share": float(scan.defect.sum() / (surface | scan.defect).sum()),
        "defect_width_mm": _width_px(scan.defect) * pitch,
        **_in_patches(scan, config),
    }


def _in_patches(scan: Scan, config: Config) -> dict[str, Any]:
    """What the detector sees of part and defect."""
    sample, px = prepare(scan, config.preprocess), config.projection.patch_px
    valid, defect = sample.valid.numpy(), sample.defect.numpy()
    grid, area = len(valid) // px, defect.sum()
    return {
        "patches": int(valid.reshape(grid, px, grid, px).any(axis=(1, 3)).sum()),
        "defect_patches": float(area / px**2),
        "defect_seen": float((defect & valid).sum() / area) if area else 0.0,
    }


def counts(root: Path) -> pd.DataFrame:
    """Scans on disk: a row per category and split, a column per kind, by their file names alone."""
    kinds = {
        (category, split): Counter(entry.kind for entry in entries(root, category, split))
        for category in categories(root)
        for split in SPLITS
    }
    table = pd.DataFrame.from_dict(kinds, orient="index").fillna(0).astype(int)
    table.index.names = ["category", "split"]
    order = ["good", *sorted(set(table.columns) - {"good"})]
    return table.reindex(columns=order, fill_value=0)


def measure(category: str, config: Config, scans: int = 8) -> pd.DataFrame:
    """`facts` of a category, a row per scan: every defective scan, `scans` good ones of each split.

    The training scans of the other categories of the data set are included for comparison. Good
    scans are drawn evenly over a split; 0 takes all.
    """
    root, light = Path(config.data.root), config.data.light
    chosen = [e for split in SPLITS for e in _drawn(entries(root, category, split, light), scans)]
    for other in categories(root):
        if other != category:
            chosen += _drawn(entries(root, other, "train", light), scans)
    return pd.DataFrame([facts(read_scan(entry), config) for entry in progress(chosen, category)])


def largest_defect(facts: pd.DataFrame, category: str) -> str:
    """Name of the category's scan with the largest defect; its first test scan without any."""
    own = facts[facts["category"] == category]
    test = own[own["split"] == "test"]
    some = test if len(test) else own
    return str(some.nlargest(1, "defect_mm2")["name"].item())


def find_entry(root: Path, category: str, name: str) -> Entry:
    """The scan `name`, `<split>/<kind>/<stem>` or its last two parts where the split is test."""
    parts = name.removeprefix(f"{category}/").split("/")
    path = "/".join([category, *(["test"] if len(parts) == 2 else []), *parts])
    split = path.split("/")[1]
    known = {e.name: e for s in SPLITS if s == split for e in entries(root, category, s)}
    if path not in known:
        some = [name.removeprefix(f"{category}/") for name in known][:3] or ["test/good/000"]
        raise InputError(
            f"scan {name!r} is not in {root / category}; name one by split, kind and number, "
            f"such as {', '.join(some)}"
        )
    return known[path]


def _drawn(found: list[Entry], scans: int) -> list[Entry]:
    """Every defective entry and `scans` good ones, evenly over their order."""
    good = [entry for entry in found if entry.kind == "good"]
    good = [good[i] for i in spread_out(len(good), scans or len(good))]
    return good + [entry for entry in found if entry.kind != "good"]


def _pitch_mm(xyz: Float[np.ndarray, "H W 3"], readings: Mask, plane: np.ndarray) -> float:
    """Median distance of neighbouring readings along the plane."""
    points, known = xyz[::4].astype(np.float64), readings[::4]
    steps = (points[:, 1:] - points[:, :-1])[known[:, 1:] & known[:, :-1]]
    if not len(steps):
        return 0.0
    along = steps - (steps @ plane[:3])[:, None] * plane[:3]
    return float(np.median(np.linalg.norm(along, axis=1)) * 1000)


def _extent_mm(measured: Measured) -> tuple[float, float]:
    """Length along the part's longest axis in the plane, and width across it.

    Between the 0.1th and 99.9th percentile of its points: a stray reading adds nothing.
    """
    normal = measured.plane[:3]
    points = measured.scan.xyz[measured.regions["part"]].astype(np.float64) * 1000
    points -= points.mean(axis=0)
    flat = points - (points @ normal)[:, None] * normal
    axes = np.linalg.eigh(flat.T @ flat)[1][:, :0:-1]
    low, high = np.percentile(flat @ axes, (0.1, 99.9), axis=0)
    length, width = high - low
    return float(length), float(width)


def _width_px(defect: Mask) -> float:
    """Diameter of the largest circle in the mask; 1 for a line of single pixels, 0 for nothing."""
    return max(0.0, float(2 * depth_in(defect).max() - 1))
