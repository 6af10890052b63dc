"""Scores and maps weighted by linear one-class SVMs, as in M3DM and in LSFA's released code.

The value of a linear one-class SVM at a vector of distances is their weighted sum: larger for
larger distances, so it is the anomaly score itself (M3DM, sec. 3.4).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import SGDOneClassSVM

from lsfa_lib.detection.detector import evidence
from lsfa_lib.detection.maps import map_valid
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods import lsfa
from lsfa_lib.methods.cfm import weighted
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.records import MODALITIES, Mode, Prediction
from lsfa_lib.storage.files import InputError

NU = 0.5
"""Parameter of the one-class SVM."""
PIXEL_STEP = 16
"""Every so many pixels of the maps are given to it: neighbours are nearly equal."""


def svm_weights(distances: Float[np.ndarray, "N K"], seed: int) -> Float[np.ndarray, " K"]:
    """Weights of a linear one-class SVM fitted to the distances of good scans or patches.

    Raises InputError where all distances are 0.
    """
    fitted = SGDOneClassSVM(nu=NU, random_state=seed, max_iter=1000).fit(distances)
    weights = np.ravel(fitted.coef_)
    if not weights.any():
        raise InputError(
            "all distances of the good scans to their banks are 0, so that no score can be learned "
            "from them; set bank.keep_ratio below 1"
        )
    return weights


def fit_lsfa(good: Good) -> Predict:
    """LSFA with one SVM on the scores of the training scans and one on the pixels of their maps."""
    detector = lsfa.fit(good).detector
    scores, pixels = [], []
    for scan in good.train:
        found = evidence(detector, scan.features)
        scores.append([found[m].image_score for m in MODALITIES])
        inside = map_valid(scan.features, good.config)
        maps = [found[m].anomaly_map[inside][::PIXEL_STEP].cpu() for m in MODALITIES]
        pixels.append(torch.stack(maps, dim=1))
    of_scans = svm_weights(np.array(scores), good.seed)
    of_pixels = svm_weights(torch.cat(pixels).numpy(), good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        found = evidence(detector, scan.features)
        parts = [found[m] for m in MODALITIES]
        anomaly = weighted(*zip(of_pixels.tolist(), parts, strict=True)).anomaly_map
        score = weighted(*zip(of_scans.tolist(), parts, strict=True)).image_score
        return {"rgb+3d": Prediction(anomaly, score)}

    return predict
