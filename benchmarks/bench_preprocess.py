"""Background plane and cleaning of an 800 x 800 scan, against open3d and sklearn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.cluster import DBSCAN

from benchmarks.harness import Row, measure
from lsfa_lib.config import OURS
from lsfa_lib.open3d_import import load_open3d
from lsfa_lib.preprocess import part_mask, prepare
from lsfa_lib.records import Scan

CONFIG = OURS.preprocess


def scan(side: int = 800, pitch: float = 0.00045) -> Scan:
    """A disc of about 100,000 readings on a tilted ground, 0.3 mm of noise, 2 % missing."""
    rng = np.random.default_rng(0)
    v, u = np.indices((side, side)) - side // 2
    x, y = u * pitch / 0.6, v * pitch / 0.6
    height = 0.03 * (u**2 + v**2 < (0.225 * side) ** 2)
    z = 0.6 / (1 - 0.05 * x - 0.03 * y) - height + 0.0003 * rng.standard_normal(x.shape)
    xyz = np.stack([x * z, y * z, z], axis=-1).astype(np.float32)
    xyz[rng.random(z.shape) < 0.02] = 0
    rgb = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Scan(rgb, xyz, np.zeros(z.shape, bool), "disc/test/good/0", "good", Path("0.tiff"))


def peer_mask(raw: Scan, library: str) -> np.ndarray:
    """RANSAC of open3d on the border, then DBSCAN over everything off the plane."""
    o3d = load_open3d()
    points = raw.xyz.reshape(-1, 3).astype(np.float64)
    border = np.ones(raw.xyz.shape[:2], bool)
    border[10:-10, 10:-10] = False
    strips = points[border.ravel() & (points != 0).all(1)]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(strips))
    plane, _ = cloud.segment_plane(0.004, 50, 1000)
    off = (np.abs(points @ plane[:3] + plane[3]) > 0.005) & (points != 0).all(1)
    if library == "open3d":
        rest = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points[off]))
        labels = np.asarray(rest.cluster_dbscan(0.006, 30))
    else:
        labels = DBSCAN(eps=0.006, min_samples=30, n_jobs=2).fit_predict(points[off])
    off[off] = labels == np.bincount(labels[labels >= 0]).argmax()
    return off.reshape(border.shape)


def rows() -> list[Row]:
    """One row for plane and cleaning, one for the whole preparation of a scan."""
    raw = scan()
    dbscan = replace(CONFIG, cluster_method="dbscan")
    return [
        measure(
            "plane and cleaning, 800x800",
            lambda: part_mask(raw, CONFIG),
            {
                "open3d plane + DBSCAN": lambda: peer_mask(raw, "open3d"),
                "open3d plane + sklearn DBSCAN": lambda: peer_mask(raw, "sklearn"),
            },
            repeats=3,
            target="<= 100 ms, >= 150x",
        ),
        measure(
            "a whole scan prepared, 800x800",
            lambda: prepare(raw, CONFIG),
            {"ours with DBSCAN": lambda: prepare(raw, dbscan)},
            repeats=3,
        ),
    ]
