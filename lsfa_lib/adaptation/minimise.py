"""The training of a network by Adam whose rate is warmed up and annealed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lsfa_lib.adaptation.schedule import warmed_cosine

T = TypeVar("T")


class Plan(NamedTuple):
    """How long and how fast; `warmup` is a share of the steps."""

    steps: int
    rate: float
    warmup: float = 0.1
    weight_decay: float = 1e-5


def minimise(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[T], Tensor],
    batches: Iterable[T],
    plan: Plan,
) -> list[float]:
    """The loss of each step of Adam, one step for each batch.

    The rate is that of the plan times `warmed_cosine`.
    """
    optimiser = torch.optim.Adam(parameters, plan.rate, weight_decay=plan.weight_decay)
    losses = []
    for step, batch in enumerate(batches):
        share = warmed_cosine(step, plan.steps, plan.warmup)
        optimiser.param_groups[0]["lr"] = plan.rate * share
        optimiser.zero_grad()
        loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    return losses
