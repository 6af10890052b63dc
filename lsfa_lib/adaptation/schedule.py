"""The schedule of a training: its length, and the rate, scans and random numbers of each step."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from lsfa_lib.config import TrainingConfig, config_hash
from lsfa_lib.storage.files import InputError


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
    """Scans of one step: full batches of a new random order each epoch, no scan twice in one."""
    per_epoch = scans // batch
    first = step % per_epoch * batch
    return epoch_order(step // per_epoch, scans, seed)[first : first + batch]


def epoch_order(epoch: int, scans: int, seed: int) -> list[int]:
    """The scans in the random order of one epoch."""
    return torch.randperm(scans, generator=generator_of(seed, epoch)).tolist()


def generator_of(*parts: int) -> torch.Generator:
    """A generator that depends on these numbers alone."""
    return torch.Generator().manual_seed(int(config_hash(*parts), 16) >> 1)


def fitted_schedule(config: TrainingConfig, scans: int) -> tuple[TrainingConfig, tuple[str, ...]]:
    """`config` with batch and steps for this many scans, and a note about what had to change.

    Raises InputError where the batch cannot be divided as asked.
    """
    notes: tuple[str, ...] = ()
    if scans < config.batch:
        notes = (f"batch of {scans} instead of {config.batch}: there are no more scans",)
        config = replace(config, batch=scans)
    if not 1 <= config.accumulate <= config.batch:
        raise InputError(
            f"training.accumulate is {config.accumulate}, expected 1 to {config.batch}, the batch"
        )
    if config.epochs:
        config = replace(config, steps=config.epochs * (scans // config.batch))
    return config, notes


def fitted_banks(
    config: TrainingConfig, scans: int, patches: int
) -> tuple[TrainingConfig, tuple[str, ...]]:
    """`config` with banks for epochs of `scans` and `patches`, and notes about what had to change.

    A queue longer than an epoch holds an older copy of every patch: unless rows of the same scan
    are excluded, it is cut to half an epoch.
    """
    local = config.local_queue or config.queue_batches * config.batch * patches // scans
    global_, instances = config.global_queue, scans * config.instances
    notes: tuple[str, ...] = ()
    if not config.exclude_same_scan and local > patches // 2:
        notes += (
            f"local queue of {patches // 2} patches instead of {local}: one longer than an epoch "
            f"of {patches} holds each patch's own old copy, and LC would train on nothing",
        )
        local = patches // 2
    if not config.exclude_same_scan and global_ > instances // 2:
        notes += (
            f"global queue of {instances // 2} instead of {global_}, so that it holds "
            "less than an epoch",
        )
        global_ = max(1, instances // 2)
    return replace(config, local_queue=local, global_queue=global_), notes
