"""Intervals by bootstrap over scans or Student's t over seeds, and what an interval says."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 2000
AREA = "i_auroc"
"""The metric that scans are drawn anew for; it follows from one score per scan."""


def counts(
    rng: np.random.Generator, size: int, resamples: int = RESAMPLES
) -> Int[np.ndarray, "B n"]:
    """How often each of `size` things is drawn in each resample of as many."""
    if size == 0:
        return np.zeros((resamples, 0), np.int64)
    return rng.multinomial(size, np.full(size, 1 / size), resamples)


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


def half_width(*samples: Float[np.ndarray, " _"], level: float = 0.95) -> float:
    """Half of Student's t interval of a sum of independent means, one of each sample.

    For the few seeds of a study: a bootstrap of three values hardly leaves their range. Degrees of
    freedom as by Welch and Satterthwaite. A sample of one value adds nothing; NaN without others.
    """
    from scipy.special import stdtrit  # here: commands without numbers start faster

    varied = [np.asarray(sample) for sample in samples if np.size(sample) > 1]
    if not varied:
        return float("nan")
    squares = np.array([sample.var(ddof=1) / sample.size for sample in varied])
    if (total := squares.sum()) == 0:
        return 0.0
    freedom = total**2 / sum(s**2 / (v.size - 1) for s, v in zip(squares, varied, strict=True))
    return float(stdtrit(freedom, (1 + level) / 2) * np.sqrt(total))


def within(low: float, high: float) -> tuple[float, float]:
    """The part of an interval where metrics can lie, 0 to 1; NaN stays."""
    return float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))


def verdict(line: Any, metric: str = AREA) -> str:
    """What the intervals of the differences to the reference and to the control allow to say."""
    low, high = (line.get(f"d_{metric}{end}", np.nan) for end in ("_low", "_high"))
    if np.isnan(low):
        return ""
    if line.get("is_control", False):
        return "control"
    if high < 0:
        return "worse"
    if low <= 0:
        return "not confirmed"
    against_control = line.get(f"c_{metric}_low", np.nan)
    if against_control <= 0:
        return "no better than untrained"
    unknown = line.get("needs_control", False) and np.isnan(against_control)
    return "not confirmed" if unknown else "confirmed"
