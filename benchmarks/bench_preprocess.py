"""Background plane and cleaning of an 800 x 800 scan, against the peers' way with open3d."""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Row, measure
from lsfa_lib.config import OURS
from lsfa_lib.datasets.preprocess import part_mask, prepare
from lsfa_lib.demo.synthetic import DemoSettings, render
from lsfa_lib.records import Scan
from lsfa_lib.storage.open3d import load_open3d

CONFIG = OURS.preprocess


def peer_mask(raw: Scan) -> np.ndarray:
    """RANSAC of open3d on the border, then DBSCAN over everything off the plane."""
    o3d = load_open3d()
    points = raw.xyz.reshape(-1, 3).astype(np.float64)
    border = np.ones(raw.xyz.shape[:2], bool)
    border[10:-10, 10:-10] = False
    strips = points[border.ravel() & (points != 0).all(1)]
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(strips))
    plane, _ = cloud.segment_plane(0.004, 50, 1000)
    off = (np.abs(points @ plane[:3] + plane[3]) > 0.005) & (points != 0).all(1)
    rest = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points[off]))
    labels = np.asarray(rest.cluster_dbscan(0.006, 30))
    off[off] = labels == np.bincount(labels[labels >= 0]).argmax()
    return off.reshape(border.shape)


def rows() -> list[Row]:
    """Plane and cleaning, and the whole preparation, of a demo scan at the size of real frames."""
    raw = render("biscuit/train/good/000", DemoSettings(size=800))
    readings = int(part_mask(raw, CONFIG).sum())
    return [
        measure(
            f"plane and cleaning, 800x800, part of {readings // 1000}k readings",
            lambda: part_mask(raw, CONFIG),
            {"open3d plane + DBSCAN": lambda: peer_mask(raw)},
            repeats=1,
            target="<= 100 ms, >= 150x",
        ),
        measure("a whole scan prepared, 800x800", lambda: prepare(raw, CONFIG), {}, repeats=5),
    ]
