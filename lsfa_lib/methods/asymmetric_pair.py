"""Teacher and student of AST: a conditional flow and a residual network, and their training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lsfa_lib.adaptation.minimise import Plan, minimise
from lsfa_lib.adaptation.schedule import batch_scans
from lsfa_lib.features.checkpoints import seeded
from lsfa_lib.methods.flow import negative_log_likelihood, new_flow
from lsfa_lib.storage.files import progress

BLOCKS, CLAMP = 4, 1.9
"""Coupling blocks of the teacher, and the clamp of their scales."""
POSITION = 16
"""Channels of the position encoding."""
HIDDEN = 32
"""Channels of the subnets."""
RESIDUAL_BLOCKS, WIDTH = 2, 64
"""Of the student: it has to be wider than its output."""
TEACHER_EPOCHS, STUDENT_EPOCHS, BATCH, RATE = 10, 20, 2, 5e-3
"""What half a minute on one core allows."""
MARGIN = max(2 + 2 * RESIDUAL_BLOCKS, 4 * BLOCKS)
"""Positions around the part that training reads: as far as student and teacher see."""


class Pair(nn.Module):
    """The squared distance of teacher and student at each position of an input."""

    position: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.teacher = new_flow((channels, side, side), BLOCKS, CLAMP, subnet, POSITION)
        self.student = student_network(channels + POSITION, channels)
        self.register_buffer("position", position_encoding(side))

    def forward(self, inputs: Float[Tensor, "C G G"]) -> Float[Tensor, "G G"]:
        """||z_teacher - z_student||^2."""
        batch, position = inputs[None], self.position[None]
        apart = self.teacher(batch, [position])[0] - self.student(torch.cat([batch, position], 1))
        return apart.square().sum(dim=1)[0]


def position_encoding(side: int) -> Float[Tensor, "E G G"]:
    """Sines and cosines of row and column at wavelengths from 2 pi up, a factor of 10 apart."""
    count = POSITION // 4
    angles = torch.arange(side)[:, None] * 10.0 ** -torch.arange(count)
    along = torch.cat([angles.sin(), angles.cos()], dim=1).T
    rows, columns = along[:, :, None], along[:, None, :]
    return torch.cat([rows.expand(-1, -1, side), columns.expand(-1, side, -1)])


def subnet(channels: int, out: int) -> nn.Module:
    """Scales and shifts of a coupling block: two 3 x 3 convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, out, 3, padding=1)
    )


class Residual(nn.Module):
    """x + f(x), f of two 3 x 3 convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        norms = nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
        self.body = nn.Sequential(first, norms[0], nn.LeakyReLU(), second, norms[1])

    def forward(self, x: Tensor) -> Tensor:
        """The sum, rectified."""
        return F.leaky_relu(x + self.body(x))


def student_network(channels: int, out: int) -> nn.Sequential:
    """3 x 3 convolutions into and out of the residual blocks."""
    blocks = [Residual() for _ in range(RESIDUAL_BLOCKS)]
    first = nn.Conv2d(channels, WIDTH, 3, padding=1)
    last = nn.Conv2d(WIDTH, out, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(), *blocks, last)


def train_pair(
    inputs: Float[Tensor, "N C G G"], parts: Bool[Tensor, "N G G"], label: str, seed: int
) -> Pair:
    """Teacher, then student, trained on the parts' positions of good scans.

    The teacher's loss is -log p / C, the student's ||z_teacher - z_student||^2 / C, both the mean
    over the positions of the parts.
    """
    with seeded(seed):
        pair = Pair(inputs.shape[1], inputs.shape[2])
    pair.to(inputs.device)
    rows, columns = box(parts.any(dim=0))
    inputs, parts = inputs[:, :, rows, columns], parts[:, rows, columns]
    position = pair.position[:, rows, columns].expand(len(inputs), -1, -1, -1)
    size = min(BATCH, len(inputs))
    each = len(inputs) // size

    def mean(values: Float[Tensor, "B H W"], scans: list[int]) -> Float[Tensor, ""]:
        inside = parts[scans]
        return (values * inside).sum() / inside.sum().clamp_min(1) / inputs.shape[1]

    def unlikely(scans: list[int]) -> Tensor:
        found = pair.teacher(inputs[scans], [position[scans]])
        return mean(negative_log_likelihood(*found), scans)

    def batches(steps: int, name: str) -> Iterator[list[int]]:
        for step in progress(range(steps), f"{label} {name}"):
            yield batch_scans(step, len(inputs), size, seed)

    steps = TEACHER_EPOCHS * each
    plan = Plan(steps, RATE)
    minimise(pair.teacher.parameters(), unlikely, batches(steps, "teacher"), plan)
    pair.teacher.requires_grad_(False)
    joined = torch.cat([inputs, position], dim=1)
    scans = zip(inputs.split(1), position.split(1), strict=True)  # type: ignore[no-untyped-call]
    targets = torch.cat([pair.teacher(x, [at])[0] for x, at in scans])

    def apart(scans: list[int]) -> Tensor:
        distances = (targets[scans] - pair.student(joined[scans])).square().sum(dim=1)
        return mean(distances, scans)

    steps = STUDENT_EPOCHS * each
    plan = Plan(steps, RATE)
    minimise(pair.student.parameters(), apart, batches(steps, "student"), plan)
    return pair.requires_grad_(False).eval()


def box(part: Bool[Tensor, "G G"]) -> tuple[slice, slice]:
    """Rows and columns that the part covers, and a margin."""
    spans = (part.any(dim=d).nonzero() for d in (1, 0))
    ends = [(int(s.min()), int(s.max())) if len(s) else (0, len(part)) for s in spans]
    rows, columns = (slice(max(0, a - MARGIN), b + MARGIN + 1) for a, b in ends)
    return rows, columns
