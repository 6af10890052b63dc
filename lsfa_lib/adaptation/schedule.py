"""What a training does at which step: its rate, its scans and its random numbers."""

from __future__ import annotations

import math

import torch

from lsfa_lib.config import TrainingConfig, config_hash


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of one step: that of the config, times `warmed_cosine`."""
    return config.learning_rate * warmed_cosine(step, config.steps, config.warmup)


def warmed_cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up to 1 over the first `warmup` of the steps, then a half-cosine to 0."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return 0.5 * (1 + math.cos(math.pi * share))


def batch_scans(step: int, scans: int, batch: int, seed: int) -> list[int]:
    """Scans of one step: whole batches of a new random order each epoch, no scan twice in one."""
    a_epoch = scans // batch
    first = step % a_epoch * batch
    return epoch_order(step // a_epoch, scans, seed)[first : first + batch]


def epoch_order(epoch: int, scans: int, seed: int) -> list[int]:
    """The scans in the random order of one epoch."""
    return torch.randperm(scans, generator=generator_of(seed, epoch)).tolist()


def generator_of(*parts: int) -> torch.Generator:
    """A generator that follows from these numbers alone."""
    return torch.Generator().manual_seed(int(config_hash(*parts), 16) >> 1)
