"""Normalizing flows of affine coupling blocks (AST, DifferNet).

Through FrEIA, an optional package: `pip install 'lsfa_lib[FrEIA]'`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Flow = Any
"""A FrEIA SequenceINN: f(x, [condition]) -> (z, log |det df/dx|)."""
Subnet = Callable[[int, int], nn.Module]
"""Channels in and out -> the network that computes scales and shifts of a coupling block."""


def new_flow(
    size: tuple[int, ...], blocks: int, clamp: float, subnet: Subnet, condition: int = 0
) -> Flow:
    """That many coupling blocks for inputs of `size` (channels first), each after a permutation.

    The scales of a block are exp(clamp 2/pi arctan h), h from its subnet, which also reads the
    `condition` channels; the permutations of channels are drawn once. All random numbers come from
    torch's global generator. The log-determinant is summed over channels alone, so that it has a
    value for each position of a feature map.
    """
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import GLOWCouplingBlock, PermuteRandom

    flow = SequenceINN(*size)
    conditioned = {"cond": 0, "cond_shape": (condition, *size[1:])} if condition else {}
    for _ in range(blocks):
        flow.append(PermuteRandom)
        order = torch.randperm(size[0])  # FrEIA draws its own from numpy's global generator
        flow[-1].perm.copy_(order)
        flow[-1].perm_inv.copy_(order.argsort())
        flow.append(GLOWCouplingBlock, subnet_constructor=subnet, clamp=clamp, **conditioned)
        flow[-1].ndims = 1
    return flow


def negative_log_likelihood(
    z: Float[Tensor, "B C *at"], log_det: Float[Tensor, " B *at"]
) -> Float[Tensor, " B *at"]:
    """-log p(x) = ||z||^2 / 2 - log |det dz/dx|, without the constant C/2 log 2 pi."""
    return z.square().sum(dim=1) / 2 - log_det
