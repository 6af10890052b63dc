"""Dense local geometric descriptors of a point cloud, learned without labels (3D-ST's teacher).

arXiv 2202.11660, sec. 3.1: a descriptor sees the points that its network reaches over nearest
neighbours, its receptive field, and a decoder reconstructs these points from it. Reduced, so that
one core trains it in seconds: the published sizes stand beside ours. Its 1,000 clouds show objects
of ModelNet10; ours are the scanned solids of `lsfa_lib.pretraining`, which need no download.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.adaptation.schedule import epoch_order, generator_of, warmed_cosine
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.geometry import nearest_points
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.pretraining.masked import chamfer
from lsfa_lib.pretraining.shapes import shape
from lsfa_lib.storage.files import progress

NEIGHBOURS, PUBLISHED_NEIGHBOURS = 16, 32
WIDTH, PUBLISHED_WIDTH = 32, 64
"""Numbers in a descriptor."""
BLOCKS, PUBLISHED_BLOCKS = 2, 4
CLOUD_POINTS = 1024
"""Of a procedural cloud; many have no more than 1,500."""
CLOUDS, PUBLISHED_CLOUDS = 40, 1000
EPOCHS, PUBLISHED_EPOCHS = 3, 250
"""Most of the loss is gone after 60 of the 120 steps; 1,500 steps lower it by a few per cent."""
FIELDS, PUBLISHED_FIELDS = 32, 16
"""Receptive fields reconstructed in each step."""
DECODED, PUBLISHED_DECODED = 128, 1024
"""Points that the decoder returns; a receptive field of ours holds about 170."""
RATE, WARMUP, DECAY, SEED = 4e-3, 0.05, 1e-6, 0


class Cloud(NamedTuple):
    """What the network sees of N points; nothing of it changes when they are moved."""

    neighbours: Int[Tensor, "N k"]
    """Indices of the nearest other points."""
    geometry: Float[Tensor, "N k 4"]
    """p - q and ||p - q|| of point p and neighbour q, in units of the mean neighbour distance."""


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


def _shared(inputs: int, outputs: int) -> nn.Sequential:
    """A dense layer with a leaky ReLU, the same for every point."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.2))


class Aggregation(nn.Module):
    """Local feature aggregation: the mean over neighbours q of [MLP(p - q, ||p - q||), f_q]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = _shared(4, width)

    def forward(self, features: Float[Tensor, "N D"], cloud: Cloud) -> Float[Tensor, "N E"]:
        """Features of twice the width."""
        # Not `features[neighbours]`: its gradient is summed in random order.
        near = features.index_select(0, cloud.neighbours.flatten())
        near = near.view(*cloud.neighbours.shape, -1)
        return torch.cat([self.mlp(cloud.geometry).mean(1), near.mean(1)], dim=1)


class Residual(nn.Module):
    """Two aggregations, from a quarter of the width to the whole, with a shortcut around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow, self.shortcut = _shared(width, width // 4), _shared(width, width)
        self.near, self.far = Aggregation(width // 4), Aggregation(width // 2)
        self.out = _shared(width, width)

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
        self.head = nn.Sequential(_shared(width, width), nn.Linear(width, width))

    def forward(self, cloud: Cloud) -> Float[Tensor, "N D"]:
        """A descriptor for each point; the features that enter the first block are zero."""
        features = cloud.geometry.new_zeros(len(cloud.geometry), self.width)
        for block in self.blocks:
            features = block(features, cloud)
        return self.head(features)


def receptive_field(point: int, cloud: Cloud, hops: int) -> Int[Tensor, " R"]:
    """Indices of the points reached over neighbours in that many steps."""
    reached = torch.tensor([point])
    for _ in range(hops):
        reached = torch.cat([reached, cloud.neighbours[reached].flatten()]).unique()
    return reached


class Lesson(NamedTuple):
    """A cloud, and the receptive fields of some of its points about their means."""

    cloud: Cloud
    points: Int[Tensor, " F"]
    fields: Float[Tensor, "F M 3"]


def lesson(index: int) -> Lesson:
    """The lesson of a procedural shape, in units of the cloud's mean neighbour distance.

    The published clouds share one unit; the spacings of ours differ fivefold. Each field is reduced
    to as many points as the decoder returns, or repeats some.
    """
    seen = torch.from_numpy(shape(SEED, index).points)
    seen = seen[farthest_points(seen, min(len(seen), CLOUD_POINTS))]
    seen = seen / neighbours_of(seen)[0].mean()
    cloud, generator = cloud_of(seen, 1.0), generator_of(SEED, index)
    points = torch.randperm(len(seen), generator=generator)[:FIELDS]
    fields = []
    for point in points.tolist():
        field = seen[receptive_field(point, cloud, 2 * BLOCKS)]
        order = torch.randperm(len(field), generator=generator)
        field = field[order.repeat(-(-DECODED // len(field)))[:DECODED]]
        fields.append(field - field.mean(0))
    return Lesson(cloud, points, torch.stack(fields))


class Teaching(NamedTuple):
    """A trained teacher and the loss of each of its steps."""

    network: Descriptors
    losses: tuple[float, ...]


@lru_cache(maxsize=1)
def teacher() -> Teaching:
    """The teacher, which depends on the constants of this module alone; trained once a process.

    L = mean over points p of Chamfer(D(f_p), R(p) - mean of R(p))                     (sec. 3.1)

    for descriptor f_p, decoder D and receptive field R(p), with Adam, one cloud in a step.
    """
    with seeded(SEED):
        network = Descriptors()
        decoder = nn.Sequential(_shared(WIDTH, 128), _shared(128, 128), nn.Linear(128, 3 * DECODED))
    lessons = [lesson(i) for i in range(CLOUDS)]
    parameters = [*network.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, RATE, weight_decay=DECAY)
    order = [i for epoch in range(EPOCHS) for i in epoch_order(epoch, CLOUDS, SEED)]
    losses = []
    for step, i in enumerate(progress(order, "teacher")):
        optimiser.param_groups[0]["lr"] = RATE * warmed_cosine(step, len(order), WARMUP)
        cloud, points, fields = lessons[i]
        loss = chamfer(decoder(network(cloud)[points]).view_as(fields), fields)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    return Teaching(network.requires_grad_(False), tuple(losses))
