"""All numbers of one mode over a test split, as stored in result.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lsfa_lib.evaluation import metrics
from lsfa_lib.records import UNLABELLED, Prediction, Sample

FEWEST = 5
"""Scans of either class below which resampling them says nothing of others: two good and two
defective ones that are separated would give the interval 1 to 1."""
FEW = f"no interval: fewer than {FEWEST} good or defective test scans"


def evaluate(samples: Sequence[Sample], found: Sequence[Prediction], seed: int) -> dict[str, Any]:
    """Metrics of one mode, their curves, and the interval of I-AUROC over the labelled scans."""
    pairs = zip(samples, found, strict=True)
    labelled = [(s, p) for s, p in pairs if s.kind != UNLABELLED]
    maps, masks = [p.anomaly_map for _, p in labelled], [s.defect for s, _ in labelled]
    scores, labels = [p.image_score for _, p in labelled], [s.kind != "good" for s, _ in labelled]
    if labelled:
        values = asdict(metrics.score_maps(maps, masks, scores, labels))
    else:
        values = asdict(metrics.undefined("no test scan is labelled"))
    curves: dict[str, Any] = {"roc": None, "pro": None}
    interval = (math.nan, math.nan)
    if not math.isnan(values["i_auroc"]):
        fpr, tpr = metrics.roc_curve(scores, labels)
        curves["roc"] = {"fpr": fpr.tolist(), "tpr": tpr.tolist()}
        if min(sum(labels), len(labels) - sum(labels)) < FEWEST:
            values["notes"] = (*values["notes"], FEW)
        else:
            interval = metrics.bootstrap_interval(scores, labels, seed)
    if not math.isnan(values["aupro_30"]):
        fpr, pro = metrics.pro_curve(maps, masks)
        curves["pro"] = {"fpr": fpr.tolist(), "pro": pro.tolist()}
    return {**values, "i_auroc_interval": interval, "curves": curves}
