"""Metrics of a detector on a test split: AUROC, AUPRO (exact and as in MVTec's code), intervals.

All of them are areas under one curve: the weighted share of positives above a threshold over the
share of negatives above it. AUROC weighs all positives equally; AUPRO weighs a defect pixel by
1 / (size of its component x number of components). One ranking of the pixels serves all of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from lsfa_lib.evaluation.bootstrap import areas_under_roc, bounds, counts
from lsfa_lib.evaluation.curves import Curve, area_under, curve_of, rank, thinned
from lsfa_lib.records import Scores

Array: TypeAlias = np.ndarray | Tensor
Maps: TypeAlias = Float[Array, "_ _ _"] | Sequence[Float[Array, "_ _"]]
"""Anomaly maps of a split: one array, or one map per scan if sizes differ."""
Masks: TypeAlias = Bool[Array, "_ _ _"] | Sequence[Bool[Array, "_ _"]]
"""True at defect pixels."""
Vector: TypeAlias = Float[Array, " _"] | Sequence[float]
Labels: TypeAlias = Bool[Array, " _"] | Int[Array, " _"] | Sequence[bool | int]
"""True or non-zero for a defective scan."""
LIMITS = {
    "aupro_30": 0.3,
    "aupro_10": 0.1,
    "aupro_05": 0.05,
    "aupro_01": 0.01,
    "aupro_30_peer": 0.3,
    "aupro_01_peer": 0.01,
}
METRICS = ("i_auroc", "p_auroc", *LIMITS)
ONE_CLASS = "all scans are of one class"
NO_DEFECT_PIXEL = "no defect pixel"
NO_GOOD_PIXEL = "no good pixel"


@dataclass(frozen=True)
class Pixels:
    """The pixels of a split, as pixel metrics need them."""

    good: Float[np.ndarray, " G"]
    """Scores of the good pixels."""
    defect: Float[np.ndarray, " D"]
    """Scores of the defect pixels."""
    overlap: Float[np.ndarray, " D"]
    """1 / (size of the pixel's component x number of components)."""


def score_maps(maps: Maps, masks: Masks, image_scores: Vector, labels: Labels) -> Scores:
    """Every metric of one mode over a test split, from one ranking of its pixels.

    A metric that lacks one of its two classes is NaN, with the reason in `notes`.
    """
    pixels = _pixels(maps, masks)
    notes = []
    values = dict.fromkeys(METRICS, math.nan)
    scores, defective = _image_arrays(image_scores, labels)
    if defective.all() or not defective.any():
        notes.append(f"I-AUROC is undefined: {ONE_CLASS}")
    else:
        values["i_auroc"] = auroc(scores, defective)
    if reason := _missing_class(pixels):
        notes.append(f"P-AUROC and AUPRO are undefined: {reason}")
    else:
        ranking = rank(pixels.good, pixels.defect)
        overlap, coarse = curve_of(ranking, pixels.overlap), _peer_curve(pixels, 100)
        values["p_auroc"] = area_under(curve_of(ranking))
        for name, limit in LIMITS.items():
            values[name] = area_under(coarse if name.endswith("_peer") else overlap, limit)
    return Scores(**values, notes=tuple(notes))


def undefined(reason: str) -> Scores:
    """NaN for every metric, with the reason."""
    return Scores(**dict.fromkeys(METRICS, math.nan), notes=(f"Metrics are undefined: {reason}",))


def auroc(scores: Vector, labels: Labels) -> float:
    """Probability that a defective scan scores above a good one; a tie counts one half.

    Mann-Whitney's U / (P N). NaN with a warning where one class is missing.
    """
    values, defective = _image_arrays(scores, labels)
    if defective.all() or not defective.any():
        return _undefined("AUROC", ONE_CLASS)
    return area_under(roc_curve(values, defective, points=None))


def p_auroc(maps: Maps, masks: Masks) -> float:
    """AUROC over the pooled pixels of a split. NaN with a warning where one class is missing."""
    pixels = _pixels(maps, masks)
    if reason := _missing_class(pixels):
        return _undefined("P-AUROC", reason)
    return area_under(curve_of(rank(pixels.good, pixels.defect)))


@overload
def aupro(maps: Maps, masks: Masks, limit: float = 0.3) -> float: ...
@overload
def aupro(maps: Maps, masks: Masks, limit: Sequence[float]) -> list[float]: ...
def aupro(maps: Maps, masks: Masks, limit: float | Sequence[float] = 0.3) -> float | list[float]:
    """Area under mean component overlap over false positive rate up to `limit`, divided by `limit`.

    Exact: every distinct score is a threshold (score >= threshold is positive), tied scores are
    counted together, components are 8-connected. Several limits share one ranking.
    NaN with a warning where there is no defect pixel or no good one.
    """
    limits = limit if isinstance(limit, Sequence) else [limit]
    pixels = _pixels(maps, masks)
    if reason := _missing_class(pixels):
        areas = [_undefined("AUPRO", reason)] * len(limits)
    else:
        curve = curve_of(rank(pixels.good, pixels.defect), pixels.overlap)
        areas = [area_under(curve, each) for each in limits]
    return areas if isinstance(limit, Sequence) else areas[0]


def aupro_peer(maps: Maps, masks: Masks, limit: float = 0.3, thresholds: int = 100) -> float:
    """AUPRO as the public MVTec 3D-AD evaluation computes it; published numbers are on this scale.

    Thresholds are the scores of good pixels at equal ranks, score > threshold is positive, and the
    false positive rate is derived from the rank, which is wrong under ties. At a limit of 1 % and
    100 thresholds a single trapezoid remains, whose area cannot exceed about 0.5.
    """
    pixels = _pixels(maps, masks)
    if reason := _missing_class(pixels):
        return _undefined("AUPRO", reason)
    return area_under(_peer_curve(pixels, thresholds), limit)


def roc_curve(scores: Vector, labels: Labels, points: int | None = 300) -> Curve:
    """False and true positive rate from (0, 0) to (1, 1), thinned to about `points` for plotting.

    `points=None` keeps every corner. Raises ValueError where one class is missing.
    """
    values, defective = _image_arrays(scores, labels)
    if defective.all() or not defective.any():
        raise ValueError(f"no ROC curve: {ONE_CLASS}")
    return thinned(curve_of(rank(values[~defective], values[defective])), points)


def pro_curve(maps: Maps, masks: Masks, points: int | None = 300) -> Curve:
    """False positive rate and mean component overlap, exact corners, thinned as in `roc_curve`.

    Raises ValueError where there is no defect pixel or no good one.
    """
    pixels = _pixels(maps, masks)
    if reason := _missing_class(pixels):
        raise ValueError(f"no PRO curve: {reason}")
    return thinned(curve_of(rank(pixels.good, pixels.defect), pixels.overlap), points)


def bootstrap_interval(
    scores: Vector, labels: Labels, seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the AUROC: good and defective scans are resampled separately.

    NaN with a warning where one class is missing.
    """
    values, defective = _image_arrays(scores, labels)
    if defective.all() or not defective.any():
        return (nan := _undefined("the interval of AUROC", ONE_CLASS)), nan
    draw = np.random.default_rng(seed)
    of_bad = counts(draw, int(defective.sum()), resamples)
    of_good = counts(draw, int((~defective).sum()), resamples)
    return bounds(areas_under_roc(values, defective, of_bad, of_good), level)


def _peer_curve(pixels: Pixels, count: int) -> Curve:
    last = len(pixels.good) - 1
    positions = np.linspace(0, last, count, dtype=np.int64)[::-1]
    order = np.argsort(pixels.defect)
    remaining = np.append(np.cumsum(pixels.overlap[order][::-1])[::-1], 0.0)
    thresholds = np.sort(pixels.good)[positions]
    first = np.searchsorted(pixels.defect[order], thresholds, side="right")
    return np.append((last - positions) / (last + 1), 1.0), np.append(remaining[first], 1.0)


def _pixels(maps: Maps, masks: Masks) -> Pixels:
    """Pooled pixels of a split. Raises ValueError on NaN scores and on sizes that differ."""
    scores = [_array(m) for m in maps]
    defects = [_array(m).astype(bool, copy=False) for m in masks]
    for index, (score, defect) in enumerate(zip(scores, defects, strict=True)):
        if score.shape != defect.shape:
            raise ValueError(f"map {index} is {score.shape} and its mask is {defect.shape}")
        _require_no_nan(score)
    sizes = [_component_sizes(d) for d in defects]
    overlap = 1 / np.concatenate(sizes)
    return Pixels(
        good=np.concatenate([s[~d] for s, d in zip(scores, defects, strict=True)]),
        defect=np.concatenate([s[d] for s, d in zip(scores, defects, strict=True)]),
        overlap=overlap / overlap.sum(),  # the sum of 1 / size is the number of components
    )


def _component_sizes(defect: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, " d"]:
    """For each defect pixel, the number of pixels in its 8-connected component."""
    if not defect.any():
        return np.empty(0, np.int64)
    labels = ndimage.label(defect, structure=np.ones((3, 3)))[0][defect]
    return np.bincount(labels)[labels]


def _missing_class(pixels: Pixels) -> str:
    if len(pixels.defect) == 0:
        return NO_DEFECT_PIXEL
    return NO_GOOD_PIXEL if len(pixels.good) == 0 else ""


def _undefined(metric: str, reason: str) -> float:
    warnings.warn(f"{metric} is undefined: {reason}", stacklevel=3)
    return math.nan


def _image_arrays(
    scores: Vector, labels: Labels
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    values, defective = _array(scores).astype(np.float64), _array(labels).astype(bool)
    if len(values) != len(defective):
        raise ValueError(f"{len(values)} scores and {len(defective)} labels")
    _require_no_nan(values)
    return values, defective


def _require_no_nan(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise ValueError(f"{np.isnan(values).sum()} of {values.size} scores are NaN")


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
