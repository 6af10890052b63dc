"""LSFA, this project's method, behind the same `fit` as the others; and it without adaptation."""

from __future__ import annotations

from dataclasses import asdict

from lsfa_lib.adaptation.training import train_adaptors
from lsfa_lib.config import Config, with_losses
from lsfa_lib.detection.detector import Detector, predict
from lsfa_lib.detection.detector import fit as fit_detector
from lsfa_lib.methods.method import Good, Method, Predict


def fit(good: Good) -> Predict:
    """Our detector on the good scans."""
    detector = detector_of(good)
    return lambda scene: predict(detector, scene.features)


def detector_of(good: Good) -> Detector:
    """Adaptors where a loss has a weight, then banks, scales and thresholds."""
    train = [scene.features for scene in good.train]
    validation = [scene.features for scene in good.validation]
    adaptors = None
    if any(asdict(good.config.training.weights).values()):
        adaptors = train_adaptors(train, good.config, good.seed).adaptors
    return fit_detector(train, validation, good.config, good.seed, adaptors)


def unadapted(config: Config) -> Config:
    """The same detection on the features as the backbones give them."""
    return with_losses(config, "none")


METHODS = {
    "lsfa": Method("LSFA (ours)", fit, "arXiv 2401.03145; this project", published="LSFA"),
    "unadapted": Method(
        "PatchCore, both", fit, "arXiv 2106.08265 per modality; this project", config=unadapted
    ),
}
