"""Intervals of means over categories, seeds and scans: a bootstrap with the same resamples for all.

Two variants are compared on the same test scans, so their difference is computed per resample.
I-AUROC resamples test scans and seeds, map metrics resample seeds only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

RESAMPLES = 2000
AREA = "i_auroc"
"""The metric that scans are drawn anew for; it follows from the scores of whole scans."""


@dataclass(frozen=True)
class Measured:
    """One variant in one mode: C categories, T training seeds, S coreset seeds."""

    values: dict[str, Float[np.ndarray, "C T S"]]
    """By metric."""
    scores: list[Float[np.ndarray, "T S n"]]
    """Image scores of the test scans, an array a category."""


@dataclass(frozen=True)
class Draws:
    """The same resamples for all variants, which makes their differences paired."""

    defective: list[Bool[np.ndarray, " n"]]
    good: list[Float[np.ndarray, "B g"]]
    bad: list[Float[np.ndarray, "B d"]]
    """How often each scan was drawn, an array a category; good and defective ones apart."""
    seeds: Callable[[int, int], Float[np.ndarray, "B k"]]
    """Weights of k seeds in each resample, from a stream number and k."""


def draws(defective: Sequence[Bool[np.ndarray, " n"]], seed: int) -> Draws:
    """Resamples of the test scans of each category and of seeds."""
    rng = np.random.default_rng(seed)

    def counts(size: int) -> Float[np.ndarray, "B n"]:
        if size == 0:
            return np.zeros((RESAMPLES, 0))
        return rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float)

    def seeds(stream: int, size: int) -> Float[np.ndarray, "B k"]:
        own = np.random.default_rng([seed, 1 + stream])
        return own.multinomial(size, np.full(size, 1 / size), RESAMPLES) / size

    good = [counts(int((~each).sum())) for each in defective]
    bad = [counts(int(each.sum())) for each in defective]
    return Draws(list(defective), good, bad, seeds)


def resampled(
    found: Measured, metric: str, drawn: Draws, variant: int, places: Sequence[int] | None = None
) -> Float[np.ndarray, " B"]:
    """The mean over categories and seeds of one metric in each resample.

    Coreset seeds are shared by all variants; training seeds are drawn for each `variant` by
    itself. `places` are the categories of `drawn` that `found` holds, all of them where None.
    """
    values = found.values[metric]
    _, trainings, coresets = values.shape
    by_training = drawn.seeds(1 + variant, trainings)
    by_coreset = drawn.seeds(0, coresets)
    if metric != AREA:
        return np.einsum("bt,bs,ts->b", by_training, by_coreset, values.mean(0))
    total = np.zeros(RESAMPLES)
    for scores, place in zip(found.scores, places or range(len(found.scores)), strict=True):
        areas = areas_under_roc(scores, drawn, place)
        total += np.einsum("bt,bs,bts->b", by_training, by_coreset, areas)
    return total / len(found.scores)


def areas_under_roc(
    scores: Float[np.ndarray, "T S n"], drawn: Draws, category: int
) -> Float[np.ndarray, "B T S"]:
    """AUROC of each resample: p U n / (P N) with U = [bad > good] + [bad = good] / 2.

    NaN where the split lacks good or defective scans.
    """
    defective = drawn.defective[category]
    bad, good = scores[..., defective], scores[..., ~defective]
    wins = (bad[..., :, None] > good[..., None, :]) + 0.5 * (
        bad[..., :, None] == good[..., None, :]
    )
    weighted = np.einsum("bd,tsdg->btsg", drawn.bad[category], wins, optimize=True)
    areas = np.einsum("btsg,bg->bts", weighted, drawn.good[category], optimize=True)
    # Without good or without defective scans there is no area.
    pairs = bad.shape[-1] * good.shape[-1]
    return areas / pairs if pairs else np.full_like(areas, np.nan)


def with_interval(name: str, mean: float, found: Float[np.ndarray, " B"]) -> dict[str, float]:
    """`name`, `name_low` and `name_high`: the mean and its 95 % interval."""
    low, high = np.quantile(found, [0.025, 0.975])
    return {name: mean, f"{name}_low": float(low), f"{name}_high": float(high)}


def verdict(line: dict[str, Any] | pd.Series, metric: str = AREA) -> str:
    """What the intervals of the differences to the baseline and to the control allow to say."""
    low, high = line.get(f"d_{metric}_low"), line.get(f"d_{metric}_high")
    if low is None or high is None or np.isnan(low):
        return ""
    if high < 0:
        return "worse"
    if low <= 0:
        return "not confirmed with these features"
    control = line.get(f"c_{metric}_low")
    if control is not None and control <= 0:
        return "no better than untrained"
    return "confirmed"
