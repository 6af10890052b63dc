"""3D-ST (arXiv 2202.11660): where a student fails to regress a teacher's geometric descriptors.

The teacher learns from procedural clouds (`lsfa_lib.pretraining.descriptors`), a student of the
same architecture from its descriptors of good parts (sec. 3.2). Re-implemented from the paper;
smaller and with far fewer steps, so that one core learns a category in seconds. It reads points
alone. Between points as far apart as these, noise and pose change descriptors about as much as
small defects do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lsfa_lib.adaptation.minimise import Plan, minimise
from lsfa_lib.adaptation.schedule import epoch_order
from lsfa_lib.config import Config
from lsfa_lib.detection.maps import prediction_of
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.extract import patch_valid
from lsfa_lib.features.geometry import patch_weights, spread
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.features.local_descriptors import (
    Cloud,
    Descriptors,
    cloud_of,
    neighbours_of,
    one_sidedness,
    points_of,
)
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.pretraining.descriptors import teacher
from lsfa_lib.records import Mode, PatchFeatures, Prediction, Sample
from lsfa_lib.storage.files import progress

EPOCHS = 15
"""Published 100."""
NEAREST = 3
"""Points that a pixel is interpolated from where `projection.neighbours` means all."""
RATE, WARMUP = 2e-2, 0.05
GROUPS = 20
"""Groups of equally many training points, by one-sidedness, in which errors are standardised."""
LEAST = 1e-2
"""Smaller shares of the largest variance are noise of the descriptors."""

Errors = Callable[[Cloud], Float[Tensor, " N"]]
"""The anomaly score of each point."""


def fit(good: Good) -> Predict:
    """The student, trained on the good scans."""
    clouds = [points_of(scan.sample) for scan in good.train]
    distances = [neighbours_of(points)[0].mean() for points in clouds]
    unit = max(float(torch.stack(distances).mean()), 1e-9)
    seen = [cloud_of(points, unit) for points in clouds]
    errors = standardised(learned(seen, good.seed), seen)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        points = points_of(scan.sample)
        found = errors(cloud_of(points, unit))
        return {"3d": prediction_from(found, points, scan.sample, good.config)}

    return predict


def learned(clouds: list[Cloud], seed: int) -> Errors:
    """||S(p) - W (T(p) - mean)||_2 of each point, S trained on these clouds.

    W whitens the teacher's descriptors T over all their points. The paper divides each component by
    its standard deviation; those of a small teacher are so correlated that what is left of a dent
    is a small part of the distance. The loss is the mean square of the same difference (sec. 3.2),
    with Adam, one cloud in a step.
    """
    target = copy.deepcopy(teacher().network).to(clouds[0].geometry.device)
    own = [target(cloud) for cloud in clouds]
    mean, whiten = whitening(torch.cat(own))
    with seeded(seed):
        student = Descriptors()
    student.to(mean.device)
    order = [i for epoch in range(EPOCHS) for i in epoch_order(epoch, len(clouds), seed)]

    def loss(i: int) -> Tensor:
        return (student(clouds[i]) - (own[i] - mean) @ whiten).square().sum(1).mean()

    plan = Plan(len(order), RATE, WARMUP)
    minimise(student.parameters(), loss, progress(order, "student"), plan)
    student.requires_grad_(False)
    return lambda cloud: (student(cloud) - (target(cloud) - mean) @ whiten).norm(dim=1)


def standardised(errors: Errors, clouds: list[Cloud]) -> Errors:
    """Errors standardised by those of training points with similarly one-sided neighbourhoods.

    Not in the paper. Points at the part's outline have neighbours on one side only; they are few,
    the student learns them least, and their errors would exceed those of defects.
    """
    sides = torch.cat([one_sidedness(cloud) for cloud in clouds])
    seen = torch.cat([errors(cloud) for cloud in clouds])
    edges = torch.quantile(sides, torch.linspace(0, 1, GROUPS + 1).to(sides)[1:-1])
    of = torch.bucketize(sides, edges)
    member = F.one_hot(of, GROUPS).to(seen)
    count = member.sum(dim=0).clamp_min(1)
    mean = seen @ member / count
    square = (seen - mean[of]).square() @ member / count
    std = square.sqrt().clamp_min(1e-6)

    def standard(cloud: Cloud) -> Float[Tensor, " N"]:
        group = torch.bucketize(one_sidedness(cloud), edges)
        return (errors(cloud) - mean[group]) / std[group]

    return standard


def whitening(rows: Float[Tensor, "N D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D"]]:
    """Mean of the rows, and the matrix that gives their principal components unit variance.

    Components with less than LEAST of the largest variance become zero.
    """
    mean = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh((rows - mean).double().T.cov(correction=0))
    scales = torch.where(values > LEAST * values[-1], values.rsqrt(), 0.0).nan_to_num(posinf=0.0)
    return mean, (vectors * scales).to(rows)


def prediction_from(
    errors: Float[Tensor, " N"], points: Float[Tensor, "N 3"], sample: Sample, config: Config
) -> Prediction:
    """Map and score: a patch takes the mean of its pixels, interpolated from the nearest points.

    Patches off the part take the least of them.
    """
    px, neighbours = config.projection.patch_px, config.projection.neighbours or NEAREST
    valid = patch_valid(sample.valid, px)
    weights = patch_weights(sample.xyz, sample.valid, points, px, neighbours)
    patches = spread(weights, errors[:, None])[:, 0]
    patches = torch.where(valid, patches, patches[valid].min())
    grid = (config.grid, config.grid)
    features = PatchFeatures({}, valid, grid, sample.name)
    return prediction_of(patches, float(patches.max()), features, config)
