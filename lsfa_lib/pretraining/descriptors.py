"""The teacher of 3D-ST: geometric descriptors learned on procedural clouds, without labels.

arXiv 2202.11660, sec. 3.1: a decoder reconstructs the points of a descriptor's receptive field. The
published clouds show objects of ModelNet10; ours are scanned solids, which need no download. Far
fewer steps: most of a fit's time would be spent here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lsfa_lib.adaptation.minimise import Plan, minimise
from lsfa_lib.adaptation.schedule import epoch_order, generator_of
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.features.local_descriptors import (
    BLOCKS,
    WIDTH,
    Cloud,
    Descriptors,
    cloud_of,
    neighbours_of,
    receptive_field,
    shared_mlp,
)
from lsfa_lib.features.sampling import farthest_points
from lsfa_lib.pretraining.masked import chamfer
from lsfa_lib.pretraining.shapes import shape
from lsfa_lib.storage.files import progress

CLOUD_POINTS = 1024
"""Of a procedural cloud; many have no more than 1,500."""
CLOUDS, EPOCHS = 40, 3
"""Published 1000 clouds, 250 epochs."""
FIELDS = 32
"""Receptive fields reconstructed in each step."""
DECODED = 128
"""Points that the decoder returns; a receptive field of ours holds about 170."""
RATE, WARMUP, DECAY, SEED = 4e-3, 0.05, 1e-6, 0


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
        decoder = nn.Sequential(
            shared_mlp(WIDTH, 128), shared_mlp(128, 128), nn.Linear(128, 3 * DECODED)
        )
    lessons = [lesson(i) for i in range(CLOUDS)]
    parameters = [*network.parameters(), *decoder.parameters()]
    order = [i for epoch in range(EPOCHS) for i in epoch_order(epoch, CLOUDS, SEED)]

    def loss(i: int) -> Tensor:
        cloud, points, fields = lessons[i]
        return chamfer(decoder(network(cloud)[points]).view_as(fields), fields)

    plan = Plan(len(order), RATE, WARMUP, DECAY)
    losses = minimise(parameters, loss, progress(order, "teacher"), plan)
    return Teaching(network.requires_grad_(False), tuple(losses))
