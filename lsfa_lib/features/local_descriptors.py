"""The network of 3D-ST (arXiv 2202.11660, sec. 3.1): dense local descriptors of a point cloud.

A descriptor depends on the points that the network reaches over nearest neighbours, its receptive
field. Smaller than published, so that one core trains it in seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.features.geometry import nearest_points, rows_at
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.records import Sample
from lsfa_lib.storage.files import InputError

NEIGHBOURS = 16
"""Of a point; published 32."""
WIDTH = 32
"""Numbers in a descriptor; published 64."""
BLOCKS = 2
"""Residual blocks; published 4."""
POINTS = 4000
"""Of a scan, by farthest point sampling; published 64,000."""


class Cloud(NamedTuple):
    """What the network sees of N points; unchanged when all of them are translated."""

    neighbours: Int[Tensor, "N k"]
    """Indices of the nearest other points."""
    geometry: Float[Tensor, "N k 4"]
    """p - q and ||p - q|| of point p and neighbour q, in units of the mean neighbour distance."""


def points_of(sample: Sample) -> Float[Tensor, "N 3"]:
    """`POINTS` of the valid points, spread evenly, metres; all where there are fewer.

    Raises InputError where a point would lack neighbours.
    """
    points = sample.xyz[:, sample.valid].T.contiguous()
    if len(points) <= NEIGHBOURS:
        raise InputError(
            f"{sample.name} has {len(points)} valid points; 3D-ST needs {NEIGHBOURS + 1} or more"
        )
    return points[farthest_points(points, min(len(points), POINTS))]


def neighbours_of(
    points: Float[Tensor, "N 3"],
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Distances and indices of the nearest other points, of which there must be that many."""
    distances, index = nearest_points(points, points, NEIGHBOURS + 1)
    return distances[:, 1:], index[:, 1:]


def cloud_of(points: Float[Tensor, "N 3"], unit: float) -> Cloud:
    """The neighbours of each point, with coordinates divided by `unit`, metres."""
    distances, index = neighbours_of(points)
    offsets = points[:, None] - points[index]
    return Cloud(index, torch.cat([offsets, distances[..., None]], dim=2) / unit)


def one_sidedness(cloud: Cloud) -> Float[Tensor, " N"]:
    """Length of the mean offset to the neighbours, in units of the mean neighbour distance."""
    return cloud.geometry[..., :3].mean(dim=1).norm(dim=1)


def shared_mlp(inputs: int, outputs: int) -> nn.Sequential:
    """A dense layer with a leaky ReLU, the same for every point."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.2))


class Aggregation(nn.Module):
    """Local feature aggregation: the mean over neighbours q of [MLP(p - q, ||p - q||), f_q]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = shared_mlp(4, width)

    def forward(self, features: Float[Tensor, "N D"], cloud: Cloud) -> Float[Tensor, "N E"]:
        """Features of twice the width."""
        near = rows_at(features, cloud.neighbours.flatten())
        near = near.view(*cloud.neighbours.shape, -1)
        return torch.cat([self.mlp(cloud.geometry).mean(1), near.mean(1)], dim=1)


class Residual(nn.Module):
    """Two aggregations, from a quarter of the width to the whole, with a shortcut around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow, self.shortcut = shared_mlp(width, width // 4), shared_mlp(width, width)
        self.near, self.far = Aggregation(width // 4), Aggregation(width // 2)
        self.out = shared_mlp(width, width)

    def forward(self, features: Float[Tensor, "N D"], cloud: Cloud) -> Float[Tensor, "N D"]:
        """Features of the same width."""
        inner = self.far(self.near(self.narrow(features), cloud), cloud)
        return self.out(inner) + self.shortcut(features)


class Descriptors(nn.Module):
    """The network of teacher and student: residual blocks, then an MLP with one hidden layer."""

    def __init__(self, width: int = WIDTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.head = nn.Sequential(shared_mlp(width, width), nn.Linear(width, width))

    def forward(self, cloud: Cloud) -> Float[Tensor, "N D"]:
        """A descriptor for each point; the features that enter the first block are zero."""
        features = cloud.geometry.new_zeros(len(cloud.geometry), self.width)
        for block in self.blocks:
            features = block(features, cloud)
        return self.head(features)


def receptive_field(point: int, cloud: Cloud, hops: int) -> Int[Tensor, " R"]:
    """Indices of the points reached over neighbours in that many steps."""
    reached = torch.tensor([point], device=cloud.neighbours.device)
    for _ in range(hops):
        reached = torch.cat([reached, cloud.neighbours[reached].flatten()]).unique()  # type: ignore[no-untyped-call]
    return reached
