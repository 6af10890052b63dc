"""CFM, alone and beside LSFA: as an average of scores, and as a third score."""

from __future__ import annotations

from collections.abc import Callable

from lsfa_lib.detection.detector import evidence, scales_of, standardise
from lsfa_lib.methods.crossmodal import predict_crossmodal, train_crossmodal
from lsfa_lib.methods.lsfa import detector_of
from lsfa_lib.methods.method import Fit, Good, LazyScan, Method, Predict
from lsfa_lib.methods.truncated_backbones import deployed, narrowed, whole
from lsfa_lib.records import Evidence, Mode, PatchFeatures, Prediction


def fit(good: Good) -> Predict:
    """Both mappings trained on the good scans."""
    train = [features_of(scene) for scene in good.train]
    trained = train_crossmodal(train, good.config.crossmodal, good.seed)

    def predict(scene: LazyScan) -> dict[Mode, Prediction]:
        return {"rgb+3d": predict_crossmodal(trained, features_of(scene), good.config)}

    return predict


def features_of(scene: LazyScan) -> PatchFeatures:
    """Features of the cut that the scene's config names, if it names one."""
    return narrowed(scene.features, scene.config)


def beside_lsfa(join: Callable[[Prediction, Prediction, Prediction], Prediction]) -> Fit:
    """`fit` of LSFA and CFM on the same features, joined on the scale of validation/good.

    `join` gets the standardised predictions of shape, of colour, and CFM's.
    """

    def fit_both(good: Good) -> Predict:
        train = [scene.features for scene in good.train]
        validation = [scene.features for scene in good.validation]
        detector = detector_of(good)
        trained = train_crossmodal(train, good.config.crossmodal, good.seed)

        def found(features: PatchFeatures) -> dict[Evidence, Prediction]:
            both = evidence(detector.banks, detector.adaptors, features, good.config)
            # In the place of LSFA's own third score, which CFM's stands beside here.
            third = predict_crossmodal(trained, features, good.config)
            return {"3d": both["3d"], "rgb": both["rgb"], "disagreement": third}

        scales = scales_of([found(features) for features in validation], validation, good.config)

        def predict(scene: LazyScan) -> dict[Mode, Prediction]:
            ready = standardise(found(scene.features), scales)
            return {"rgb+3d": join(ready["3d"], ready["rgb"], ready["disagreement"])}

        return predict

    return fit_both


def weighted(*parts: tuple[float, Prediction]) -> Prediction:
    """Weighted sum of maps and of scores."""
    anomaly = sum((w * p.anomaly_map for w, p in parts[1:]), parts[0][0] * parts[0][1].anomaly_map)
    return Prediction(anomaly, sum(w * p.image_score for w, p in parts))


def average(shape: Prediction, colour: Prediction, crossmodal: Prediction) -> Prediction:
    """LSFA, the mean of its two, and CFM count alike."""
    return weighted((0.25, shape), (0.25, colour), (0.5, crossmodal))


def third(shape: Prediction, colour: Prediction, crossmodal: Prediction) -> Prediction:
    """CFM's residual as one of three scores."""
    return weighted((1 / 3, shape), (1 / 3, colour), (1 / 3, crossmodal))


METHODS = {
    "cfm": Method(
        "CFM",
        fit,
        "arXiv 2312.04521; written anew",
        config=whole,
        deployed=deployed,
        published="CFM",
    ),
    "lsfa_cfm_average": Method(
        "LSFA and CFM, averaged", beside_lsfa(average), "arXiv 2401.03145 and 2312.04521"
    ),
    "lsfa_cfm_third": Method(
        "LSFA, CFM as third score", beside_lsfa(third), "arXiv 2401.03145 and 2312.04521"
    ),
}
