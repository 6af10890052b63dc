"""AUPRO and P-AUROC over 100 maps of 224 x 224, against what users would run instead."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from benchmarks.harness import Row, measure
from lsfa_lib.evaluation.metrics import aupro, p_auroc

LIMITS = [0.3, 0.1, 0.05, 0.01]


def split(scans: int = 100, side: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Maps and masks of a test split: blobs on 2 % of the pixels, a quarter of the scans good."""
    rng = np.random.default_rng(0)
    masks = np.zeros((scans, side, side), bool)
    for mask in masks[scans // 4 :]:
        blobs = ndimage.gaussian_filter(rng.standard_normal((side, side)), 6)
        mask[:] = blobs > np.quantile(blobs, 0.98)
    noise = ndimage.gaussian_filter(rng.standard_normal(masks.shape), (0, 4, 4)) * 14
    return (noise + 1.5 * masks).astype(np.float32), masks


def hundred_thresholds(maps: np.ndarray, masks: np.ndarray) -> list[float]:
    """The public evaluation's way: 100 thresholds, each component's overlap at each of them."""
    good = np.sort(maps[~masks])
    components = []
    for score, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        components += [np.sort(score[labels == k + 1]) for k in range(count)]
    x, y = [1.0], [1.0]
    for position in np.linspace(0, len(good) - 1, 100).astype(int):
        x.append(1 - (position + 1) / len(good))
        found = [1 - np.searchsorted(c, good[position], "right") / len(c) for c in components]
        y.append(float(np.mean(found)))
    grid = [np.linspace(0, limit, 1001) for limit in LIMITS]
    return [float(np.trapezoid(np.interp(g, x[::-1], y[::-1]), g) / g[-1]) for g in grid]


def rows() -> list[Row]:
    """One row for AUPRO at four limits, one for P-AUROC."""
    maps, masks = split()
    return [
        measure(
            "AUPRO exact, 100 maps of 224x224, 4 limits",
            lambda: aupro(maps, masks, LIMITS),
            {"100 thresholds": lambda: hundred_thresholds(maps, masks)},
            target="<= 300 ms, exact",
        ),
        measure(
            "P-AUROC, 5M pixels",
            lambda: p_auroc(maps, masks),
            {"sklearn": lambda: roc_auc_score(masks.ravel(), maps.ravel())},
            target=">= 8x sklearn",
        ),
    ]
