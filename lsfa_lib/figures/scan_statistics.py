"""What scans hold, in numbers: background, part, missing readings, defects, all in millimetres.

Areas and lengths are those seen along the background plane's normal, from the median distance of
neighbouring readings in a scan: perspective changes them by a few per cent over a part's height.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import ndimage

from lsfa_lib.config import Config, PreprocessConfig
from lsfa_lib.datasets.entry import SPLITS, Entry
from lsfa_lib.datasets.layouts import categories, entries, read_scan
from lsfa_lib.datasets.plane import height_above, plane_of, readings_of
from lsfa_lib.datasets.preprocess import part_mask, prepare
from lsfa_lib.records import Scan, is_defective
from lsfa_lib.storage.files import InputError, progress

Region = Literal["part", "background", "loose", "missing"]
Mask = Bool[np.ndarray, "H W"]
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


@dataclass(frozen=True)
class Facts:
    """The numbers of one scan; those of the defect are 0 for a good scan."""

    category: str
    split: str
    kind: str
    name: str
    width_px: int
    height_px: int
    part: float
    """Shares of the frame, these four sum to 1."""
    background: float
    loose: float
    missing: float
    holes: float
    """Share of the part's own area without a reading."""
    at_edge: bool
    """The part touches the edge of the frame."""
    length_mm: float
    """Along the part's longest axis, and across it."""
    width_mm: float
    height_mm: float
    """Of the part above the plane: its 99.5th percentile."""
    tilt_deg: float
    """Between the plane's normal and the camera's axis."""
    pitch_mm: float
    patch_mm: float
    """Side of a patch on the part."""
    patches: int
    """Patches with a point of the part."""
    defect_mm2: float
    defect_share: float
    """Of the part's area."""
    defect_patches: float
    """Area in patches."""
    defect_width_mm: float
    """Diameter of the largest circle inside the defect."""
    defect_seen: float
    """Share of the defect's pixels that have a point of the part after preprocessing."""

    @property
    def defective(self) -> bool:
        """The scan lies in a folder of defects."""
        return is_defective(self.kind) is True


def take_apart(scan: Scan, config: PreprocessConfig) -> Measured:
    """The pixels of a scan by what preprocessing does with them. Raises what preprocessing does."""
    plane = plane_of(scan, config)
    readings, part = readings_of(scan.xyz), part_mask(scan, config)
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


def facts(scan: Scan, config: Config) -> Facts:
    """All numbers of one scan."""
    m = take_apart(scan, config.preprocess)
    sample = prepare(scan, config.preprocess)
    part, shape = m.regions["part"], m.regions["part"].shape
    holes = ndimage.binary_fill_holes(part) & m.regions["missing"]
    surface = part | holes
    length, width = _extent_mm(m)
    patch_px, side = config.projection.patch_px, config.preprocess.image_size
    valid, defect = sample.valid.numpy(), sample.defect.numpy()
    seen_defect = defect.sum()
    edges = (part[0], part[-1], part[:, 0], part[:, -1])
    return Facts(
        category=scan.name.split("/")[0],
        split=scan.name.split("/")[1],
        kind=scan.kind,
        name=scan.name,
        width_px=shape[1],
        height_px=shape[0],
        **{region: float(mask.mean()) for region, mask in m.regions.items()},
        holes=float(holes.sum() / surface.sum()),
        at_edge=any(bool(edge.any()) for edge in edges),
        length_mm=length,
        width_mm=width,
        height_mm=float(np.percentile(m.height_mm[part], 99.5)),
        tilt_deg=float(np.degrees(np.arccos(min(1.0, abs(m.plane[2]))))),
        pitch_mm=m.pitch_mm,
        patch_mm=patch_px * max(shape) / side * m.pitch_mm,
        patches=int(_patches(valid, patch_px).sum()),
        defect_mm2=float(scan.defect.sum() * m.pitch_mm**2),
        defect_share=float(scan.defect.sum() / (surface | scan.defect).sum()),
        defect_patches=float(seen_defect / patch_px**2),
        defect_width_mm=_width_px(scan.defect) * m.pitch_mm,
        defect_seen=float((defect & valid).sum() / seen_defect) if seen_defect else 0.0,
    )


def counts(root: Path) -> pd.DataFrame:
    """Scans on disk: a row a category and split, a column a kind, by their file names alone."""
    rows = []
    for category in categories(root):
        for split in SPLITS:
            kinds = [entry.kind for entry in entries(root, category, split)]
            rows += [{"category": category, "split": split, "kind": kind} for kind in kinds]
    table = pd.DataFrame(rows).value_counts().unstack("kind", fill_value=0)
    order = ["good", *(kind for kind in table.columns if kind != "good")]
    return table.reindex(columns=order, fill_value=0).sort_index(key=_split_order)


def measure(category: str, config: Config, scans: int = 8) -> pd.DataFrame:
    """`Facts` of a category, a row a scan: every defective scan, `scans` good ones of each split.

    The training scans of the other categories of the data set come along, to compare with. Good
    scans are drawn evenly over a split; 0 takes all.
    """
    root, light = Path(config.data.root), config.data.light
    chosen = [e for split in SPLITS for e in _drawn(entries(root, category, split, light), scans)]
    for other in categories(root):
        if other != category:
            chosen += _drawn(entries(root, other, "train", light), scans)
    found = [facts(read_scan(entry), config) for entry in progress(chosen, category)]
    table = pd.DataFrame([asdict(one) for one in found])
    return table.assign(defective=[one.defective for one in found])


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
    if scans and len(good) > scans:
        good = [good[i] for i in np.linspace(0, len(good) - 1, scans).round().astype(int)]
    return good + [entry for entry in found if entry.kind != "good"]


def _split_order(index: pd.Index) -> pd.Index:
    if index.name != "split":
        return index
    return index.map({split: place for place, split in enumerate(SPLITS)})


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
    if not defect.any():
        return 0.0
    inside = ndimage.distance_transform_edt(np.pad(defect, 1))
    return float(2 * inside.max() - 1)


def _patches(valid: Bool[np.ndarray, "S S"], patch_px: int) -> Bool[np.ndarray, "g g"]:
    grid = len(valid) // patch_px
    return np.any(valid.reshape(grid, patch_px, grid, patch_px), axis=(1, 3))
