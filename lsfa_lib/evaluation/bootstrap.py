"""Intervals of means over categories, seeds and scans: a bootstrap with the same resamples for all.

Two variants are compared on the same test scans, so their difference is computed per resample.
I-AUROC resamples test scans and seeds, map metrics resample seeds only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 2000
AREA = "i_auroc"
"""The metric that scans are drawn anew for; it follows from one score per scan."""


@dataclass(frozen=True)
class Measured:
    """One variant in one mode: C categories, T training seeds, S coreset seeds."""

    values: dict[str, Float[np.ndarray, "C T S"]]
    """By metric."""
    scores: list[Float[np.ndarray, "T S n"]]
    """Image scores of the test scans, an array for each category."""


@dataclass(frozen=True)
class Draws:
    """The same resamples for all variants, which makes their differences paired."""

    defective: list[Bool[np.ndarray, " n"]]
    good: list[Int[np.ndarray, "B g"]]
    bad: list[Int[np.ndarray, "B d"]]
    """How often each scan was drawn, an array for each category; good and defective ones apart."""
    seed: int

    def seeds(self, stream: int, size: int) -> Float[np.ndarray, "B k"]:
        """Weights of `size` seeds in each resample; equal for equal streams."""
        return counts(np.random.default_rng([self.seed, 1 + stream]), size) / size


def counts(
    rng: np.random.Generator, size: int, resamples: int = RESAMPLES
) -> Int[np.ndarray, "B n"]:
    """How often each of `size` things is drawn in each resample of as many."""
    if size == 0:
        return np.zeros((resamples, 0), np.int64)
    return rng.multinomial(size, np.full(size, 1 / size), resamples)


def draws(defective: Sequence[Bool[np.ndarray, " n"]], seed: int) -> Draws:
    """Resamples of the test scans of each category and of seeds."""
    rng = np.random.default_rng(seed)
    good = [counts(rng, int((~each).sum())) for each in defective]
    bad = [counts(rng, int(each.sum())) for each in defective]
    return Draws(list(defective), good, bad, seed)


def resampled(
    found: Measured, metric: str, drawn: Draws, variant: int, places: Sequence[int]
) -> Float[np.ndarray, " B"]:
    """The mean over categories and seeds of one metric in each resample.

    Coreset seeds are shared by all variants; training seeds are drawn for each `variant` by
    itself. `places` are the categories of `drawn` that `found` holds.
    """
    values = found.values[metric]
    by_training = drawn.seeds(1 + variant, values.shape[1])
    by_coreset = drawn.seeds(0, values.shape[2])
    if metric != AREA:
        return np.einsum("bt,bs,ts->b", by_training, by_coreset, values.mean(0))
    total = np.zeros(RESAMPLES)
    for scores, place in zip(found.scores, places, strict=True):
        of_bad, of_good = drawn.bad[place], drawn.good[place]
        areas = areas_under_roc(scores, drawn.defective[place], of_bad, of_good)
        total += np.einsum("bt,bs,bts->b", by_training, by_coreset, areas)
    return total / len(found.scores)


def areas_under_roc(
    scores: Float[np.ndarray, "*T n"],
    defective: Bool[np.ndarray, " n"],
    of_bad: Int[np.ndarray, "B d"],
    of_good: Int[np.ndarray, "B g"],
) -> Float[np.ndarray, B * T]:
    """AUROC of each resample: p U n / (P N) with U = [bad > good] + [bad = good] / 2.

    p and n count how often each defective and good scan was drawn. NaN where there are none.
    """
    bad, good = scores[..., defective, None], scores[..., None, ~defective]
    wins = (bad > good) + 0.5 * (bad == good)
    # Counts and wins are halves of integers: these sums are exact in any order.
    weighted = np.einsum("bd,...dg->b...g", of_bad, wins, optimize=True)
    areas = np.einsum("b...g,bg->b...", weighted, of_good, optimize=True)
    pairs = bad.shape[-2] * good.shape[-1]
    return areas / pairs if pairs else np.full_like(areas, np.nan)


def bounds(found: Float[np.ndarray, " B"], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of that level."""
    tail = (1 - level) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def with_interval(name: str, mean: float, found: Float[np.ndarray, " B"]) -> dict[str, float]:
    """`name`, `name_low` and `name_high`: the mean and its 95 % interval."""
    low, high = bounds(found)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def verdict(line: Any, metric: str = AREA) -> str:
    """What the intervals of the differences to the reference and to the control allow to say."""
    low, high = (line.get(f"d_{metric}{end}", np.nan) for end in ("_low", "_high"))
    if np.isnan(low):
        return ""
    if high < 0:
        return "worse"
    if low <= 0:
        return "not confirmed"
    return "no better than untrained" if line.get(f"c_{metric}_low", np.nan) <= 0 else "confirmed"
