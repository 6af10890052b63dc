"""CFM alone, and combined with LSFA: averaged, or as a third score."""

from __future__ import annotations

from collections.abc import Callable

from lsfa_lib.detection.detector import evidence, scales_of, standardise
from lsfa_lib.features.lazy_scan import LazyScan
from lsfa_lib.methods import lsfa
from lsfa_lib.methods.crossmodal import predict_crossmodal, predict_released, train_crossmodal
from lsfa_lib.methods.method import Good, Predict
from lsfa_lib.methods.truncated_backbones import narrowed
from lsfa_lib.records import Evidence, Mode, PatchFeatures, Prediction


def fit(good: Good) -> Predict:
    """CFM with both mappings trained on the good scans."""
    train = [features_of(scan) for scan in good.train]
    trained = train_crossmodal(train, good.config.crossmodal, good.seed)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        if good.config.crossmodal.normalisation == "released":
            return predict_released(trained, features_of(scan), good.config)
        return {"rgb+3d": predict_crossmodal(trained, features_of(scan), good.config)}

    return predict


def features_of(scan: LazyScan) -> PatchFeatures:
    """Features of the scan, from the truncated backbones if its config names any."""
    return narrowed(scan.features, scan.config)


def fit_average(good: Good) -> Predict:
    """The average of LSFA (the mean of its two modalities) and CFM, with equal weights."""
    return fit_with_lsfa(good, lambda p: weighted((0.25, p[0]), (0.25, p[1]), (0.5, p[2])))


def fit_third(good: Good) -> Predict:
    """The average of three scores: shape, colour and CFM's residual."""
    return fit_with_lsfa(good, lambda p: weighted(*((1 / 3, part) for part in p)))


def fit_with_lsfa(good: Good, join: Callable[[list[Prediction]], Prediction]) -> Predict:
    """LSFA and CFM on the same features, joined on the scale of validation/good.

    `join` receives the standardised predictions of shape, of colour and of CFM.
    """
    validation = [scan.features for scan in good.validation]
    detector = lsfa.fit(good).detector
    train = [scan.features for scan in good.train]
    trained = train_crossmodal(train, good.config.crossmodal, good.seed)

    def found(features: PatchFeatures) -> dict[Evidence, Prediction]:
        both = evidence(detector, features)
        third = predict_crossmodal(trained, features, good.config)
        return {"3d": both["3d"], "rgb": both["rgb"], "cfm": third}

    scales = scales_of([found(features) for features in validation], validation, good.config)

    def predict(scan: LazyScan) -> dict[Mode, Prediction]:
        ready = standardise(found(scan.features), scales)
        return {"rgb+3d": join(list(ready.values()))}

    return predict


def weighted(*parts: tuple[float, Prediction]) -> Prediction:
    """Weighted sum of maps and of scores."""
    anomaly = sum((w * p.anomaly_map for w, p in parts[1:]), parts[0][0] * parts[0][1].anomaly_map)
    return Prediction(anomaly, sum(w * p.image_score for w, p in parts))
