"""A linear probe of features for local shape, on polyhedra with dents and bumps.

The class of a group is the shape at its centre: a plane, an edge, a corner, a dent or a bump;
groups in between have none. Polyhedra are not among the shapes of the pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.random import Generator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lsfa_lib.config import PointEncoderConfig
from lsfa_lib.features.fpfh import point_histograms
from lsfa_lib.features.point_mae import PointMAE
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.pretraining.families import rotation
from lsfa_lib.pretraining.shapes import Mark, random_camera, scanned, with_mark
from lsfa_lib.pretraining.solids import Camera, Points, Solid, seen
from lsfa_lib.storage.files import progress

CLASSES = ("plane", "edge", "corner", "dent", "bump")
GROUP_SPACINGS = 3.2
"""Radius of a group of 32 points over the spacing between points: sqrt(32 / pi)."""
HELD_OUT = 1000
"""Number of the first test scan."""
ON_EDGE, OFF_EDGE = 1.2, 4.5
"""In spacings: a point is on a face up to the first distance, and clear of it from the second."""

Features = Callable[[Points, float], tuple[Tensor, Tensor]]
"""Points in metres and their spacing -> centres (G, 3) in metres and features (G, D)."""


@dataclass(frozen=True)
class Polyhedron:
    """All points with `facing @ p <= offset`, with marks on its faces."""

    facing: Float32[np.ndarray, "F 3"]
    offset: Float32[np.ndarray, " F"]
    marks: tuple[Mark, ...] = ()

    @property
    def solid(self) -> Solid:
        """The largest distance to a plane, a lower bound outside, with the marks."""
        body: Solid = lambda p: (p @ self.facing.T - self.offset).max(axis=1)  # noqa: E731
        for mark in self.marks:
            face = np.abs(self.facing @ mark.centre - self.offset).argmin()
            body = with_mark(body, mark, self.facing[face])
        return body

    def labels(self, points: Points, spacing: float) -> Int64[np.ndarray, " N"]:
        """The class of each point in the polyhedron's frame, or -1."""
        gap = np.abs(points @ self.facing.T - self.offset) / spacing
        near, maybe = (gap < ON_EDGE).sum(axis=1), (gap < OFF_EDGE).sum(axis=1)
        label = np.where(near == maybe, np.clip(near, 0, 3) - 1, -1)
        # The floor of a dent may be far from its face, so points near a mark depend on it alone.
        for mark in self.marks:
            away = np.linalg.norm(points - mark.centre, axis=1)
            label[away < mark.radius_mm + 4 * spacing] = -1
            kind = "dent" if mark.depth_mm < 0 else "bump"
            label[away < 0.5 * mark.radius_mm] = CLASSES.index(kind)
        return label.astype(np.int64)


@dataclass(frozen=True)
class Labelled:
    """A scan of a polyhedron; millimetres, in the camera's frame."""

    points: Points
    polyhedron: Polyhedron
    camera: Camera

    def labels(self, points: Points) -> Int64[np.ndarray, " N"]:
        """The class of points in the camera's frame, or -1."""
        return self.polyhedron.labels(points - self.camera.origin, self.camera.spacing_mm)


def labelled_scan(seed: int, index: int) -> Labelled:
    """The labelled scan of that number; always the same."""
    rng = np.random.default_rng((seed, index, 2))
    camera = random_camera(72, rng)
    body = _polyhedron(camera.window_mm, rng)
    body = replace(body, marks=_marks(body, camera, rng))
    return Labelled(scanned(*seen(body.solid, camera), camera, rng), body, camera)


def probe(features: Features, seed: int = 0, train: int = 40, test: int = 60) -> dict[str, float]:
    """`probes` of one number of labelled scans."""
    return probes(features, (train,), seed, test)[train]


def probes(
    features: Features, trains: Sequence[int], seed: int = 0, test: int = 60
) -> dict[int, dict[str, float]]:
    """Balanced accuracy of a logistic regression on held-out scans, and the recall of each class.

    For each number of labelled scans, with the same test scans. Features are standardised, the L2
    penalty is 1, classes are weighted by their inverse frequency.
    """
    numbers = [*range(max(trains)), *range(HELD_OUT, HELD_OUT + test)]
    scans = [_labelled(features, labelled_scan(seed, i)) for i in progress(numbers, "probe")]
    x_test, y_test = map(np.concatenate, zip(*scans[-test:], strict=True))
    found = {}
    for count in trains:
        x, y = map(np.concatenate, zip(*scans[:count], strict=True))
        regression = LogisticRegression(max_iter=3000, class_weight="balanced")
        predicted = make_pipeline(StandardScaler(), regression).fit(x, y).predict(x_test)
        accuracy = float(balanced_accuracy_score(y_test, predicted))
        recalls = {c: float((predicted[y_test == i] == i).mean()) for i, c in enumerate(CLASSES)}
        found[count] = {"balanced accuracy": accuracy, **recalls}
    return found


def _labelled(features: Features, scan: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of the labelled groups of a scan."""
    centres, found = features(scan.points / 1000, scan.camera.spacing_mm / 1000)
    label = scan.labels(centres.numpy() * 1000)
    return found.numpy()[label >= 0], label[label >= 0]


def of_encoder(encoder: PointMAE) -> Features:
    """Features of the encoder's groups."""

    def features(points: Points, spacing: float) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return encoder(torch.from_numpy(points))

    return features


def of_fpfh(groups: int) -> Features:
    """FPFH at farthest points, with normals and histograms over the radius of a group."""

    def features(points: Points, spacing: float) -> tuple[Tensor, Tensor]:
        config = PointEncoderConfig(
            model="fpfh",
            normal_radius_m=0.6 * GROUP_SPACINGS * spacing,
            fpfh_radius_m=GROUP_SPACINGS * spacing,
            fpfh_max_neighbours=128,
        )
        histograms, nearest = point_histograms(points.astype(np.float64), config)
        cloud = torch.from_numpy(points)
        chosen = farthest_points(cloud, min(groups, len(points)))
        return cloud[chosen], torch.from_numpy(histograms[nearest[chosen.numpy()]]).float()

    return features


def _polyhedron(window: float, rng: Generator) -> Polyhedron:
    """A box, a prism or a box without some corners, in a random orientation."""
    reach = window * rng.uniform(0.3, 0.5)
    kind = rng.integers(3)
    if kind == 1:
        turns = np.arange(sides := int(rng.choice([3, 5, 6]))) * (2 * np.pi / sides)
        around = np.stack([np.cos(turns), np.sin(turns), np.zeros(sides)], axis=1)
        facing = np.concatenate([around, [[0, 0, 1], [0, 0, -1]]])
        radius, half_height = reach * rng.uniform(0.5, 1), reach * rng.uniform(0.4, 1)
        offset = np.array([radius] * sides + [half_height] * 2)
    else:
        facing = np.concatenate([np.eye(3), -np.eye(3)])
        offset = np.tile(reach * rng.uniform(0.5, 1, 3), 2)
    if kind == 2:
        corners = rng.choice([-1, 1], (2, 3)) * rng.uniform(0.6, 1.4, (2, 3))
        corners /= np.linalg.norm(corners, axis=1, keepdims=True)
        farthest = (np.abs(corners) * offset[:3]).sum(axis=1)
        facing = np.concatenate([facing, corners])
        offset = np.r_[offset, farthest * rng.uniform(0.65, 0.8, 2)]
    turn = rotation(rng)
    return Polyhedron((facing @ turn.T).astype(np.float32), offset.astype(np.float32))


def _marks(body: Polyhedron, camera: Camera, rng: Generator) -> tuple[Mark, ...]:
    """Up to four marks on visible faces, away from edges and from each other."""
    points = seen(body.solid, camera)[0] - camera.origin
    marks: list[Mark] = []
    for at in points[rng.permutation(len(points))[:60]]:
        radius = float(camera.spacing_mm * rng.uniform(3, 8))
        second_face = np.sort(np.abs(body.facing @ at - body.offset))[1]
        apart = all(np.linalg.norm(at - m.centre) > radius + m.radius_mm for m in marks)
        if second_face > 1.1 * radius and apart:
            depth = float(rng.choice([-1, 1]) * radius * rng.uniform(0.15, 0.5))
            marks.append(Mark(at, radius, depth))
        if len(marks) == 4:
            break
    return tuple(marks)
