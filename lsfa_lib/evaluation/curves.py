"""ROC and PRO curves: true positive rate over false positive rate.

Positives may carry weights, so that one function computes both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

Curve: TypeAlias = tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]
CELLS = 2**20
"""Fine enough that few good scores share a cell with a level; fewer scores than this are sorted."""
MIN_SPAN, MAX_SPAN = 1e-30, 1e30
"""Range of levels that single precision can divide into cells."""


@dataclass(frozen=True)
class Ranking:
    """Distinct scores of the positives in descending order, and the negatives above each.

    Between two of them a curve is flat, so no other thresholds are needed.
    """

    above: Float[np.ndarray, " K"]
    """Share of the negatives that score higher."""
    reached: Float[np.ndarray, " K"]
    """Share of the negatives that score at least as high."""
    order: Int[np.ndarray, " D"]
    """The positives in descending order of score."""
    ends: Int[np.ndarray, " K"]
    """Where in `order` each group of tied scores ends."""


def rank(good: Float[np.ndarray, " G"], defect: Float[np.ndarray, " D"]) -> Ranking:
    """The ranks of the positives `defect` among the negatives `good`, both in any order."""
    order = np.argsort(defect)[::-1]
    falling = defect[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    lower, lower_or_tied = _counts(good, falling[ends][::-1])
    return Ranking(
        above=1 - lower_or_tied[::-1] / len(good),
        reached=1 - lower[::-1] / len(good),
        order=order,
        ends=ends,
    )


def _counts(
    good: Float[np.ndarray, " G"], levels: Float[np.ndarray, " K"]
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """How many of `good` are below each of the ascending `levels`, and how many are not above it.

    Many scores are first binned into equal cells between the levels: only those that share a cell
    with a level have to be sorted. These are few, since most good scores are low.
    """
    near, far = good, np.zeros(len(levels), np.int64)
    low, high = float(levels[0]), float(levels[-1])
    if len(good) >= CELLS and MIN_SPAN < high - low < MAX_SPAN:
        # Each step preserves the order of the scores, even with rounding, so counts stay exact.
        cells_per_score = (CELLS - 1) / (high - low)
        wide = np.promote_types(good.dtype, np.float32)  # half precision cannot count the cells
        of_level = ((levels.astype(wide) - low) * cells_per_score).astype(np.int32)
        of_good = ((np.clip(good.astype(wide), low, high) - low) * cells_per_score).astype(np.int32)
        has_level = np.zeros(CELLS, bool)
        has_level[of_level] = True
        near = good[has_level[of_good]]
        population = np.bincount(of_good, minlength=CELLS)
        far = np.cumsum(np.where(has_level, 0, population))[of_level]
    near = np.sort(near)
    below, not_above = (np.searchsorted(near, levels, side=side) for side in ("left", "right"))
    return far + below, far + not_above


def curve_of(ranking: Ranking, weights: Float[np.ndarray, " D"] | None = None) -> Curve:
    """Every corner of the curve; `weights` of the positives sum to 1, equal if not given.

    The curve rises at each score of positives, with a slope over the negatives tied with them.
    """
    if weights is None:
        rise = (ranking.ends + 1) / len(ranking.order)
    else:
        rise = np.cumsum(weights[ranking.order])[ranking.ends]
        rise /= rise[-1]
    before = np.append(0.0, rise[:-1])
    x = np.stack([ranking.above, ranking.reached], axis=1).ravel()
    y = np.stack([before, rise], axis=1).ravel()
    return np.concatenate([[0.0], x, [1.0]]), np.concatenate([[0.0], y, [1.0]])


def area_under(curve: Curve, limit: float = 1.0) -> float:
    """Area under a curve of ascending x from 0 to `limit`, divided by `limit`, by trapezoids.

    The segment that crosses the limit is interpolated there.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of the false positive rate must be in (0, 1], not {limit}")
    x, y = curve
    inside = int(np.searchsorted(x, limit, side="right"))
    x_cut, y_cut = x[:inside], y[:inside]
    if inside < len(x):
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        x_cut = np.append(x_cut, limit)
        y_cut = np.append(y_cut, y[inside - 1] + share * (y[inside] - y[inside - 1]))
    return float(np.trapezoid(y_cut, x_cut) / limit)


def thinned(
    curve: Curve, points: int | None
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """About `points` corners, evenly spaced along the curve, including both ends."""
    x, y = curve
    if points is None or len(x) <= points:
        return curve
    length = np.cumsum(np.abs(np.diff(x, prepend=0)) + np.abs(np.diff(y, prepend=0)))
    wanted = np.linspace(0, length[-1], points)
    kept = np.unique(np.append(np.searchsorted(length, wanted), [0, len(x) - 1]))
    return x[kept], y[kept]
