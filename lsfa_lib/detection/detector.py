"""The detector: PatchCore per modality, further evidence, calibration and fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, adapt, disagreement
from lsfa_lib.config import Config, DetectorConfig
from lsfa_lib.datasets.entry import LEAST_VALIDATION, too_few_validation
from lsfa_lib.detection.building import bank_of, restandardised
from lsfa_lib.detection.head_training import train_heads
from lsfa_lib.detection.heads import Head, head_scores
from lsfa_lib.detection.labelled import Labelled
from lsfa_lib.detection.maps import map_valid, patch_map, prediction_of
from lsfa_lib.detection.memory import Bank, Searched, rows_of_modality, search_bank
from lsfa_lib.detection.thresholds import thresholds_of
from lsfa_lib.records import MODALITIES, Evidence, Modality, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import InputError

DISAGREEMENT = "disagreement"
"""The evidence of both modalities: how strongly the projected features of a patch disagree."""
HEADS = "heads"
"""The evidence of the networks trained on pseudo-defects, of all modalities together."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of one evidence on validation/good, of pixels and of scores."""

    map_mean: float = 0.0
    map_std: float = 1.0
    score_mean: float = 0.0
    score_std: float = 1.0


@dataclass(frozen=True)
class Detector:
    """Everything needed to score a new scan."""

    banks: dict[Modality, Bank]
    scales: dict[Evidence, Scale]
    thresholds: dict[Mode, float]
    """Parts that score above are classified as defective; from validation/good only."""
    validation_scores: dict[Mode, list[float]]
    config: Config
    adaptors: Adaptors | None = None
    """None: features are scored as the backbones return them."""
    heads: dict[Modality, Head] = field(default_factory=dict)
    """Empty: scored by distances and disagreement alone."""
    surface: dict[Mode, tuple[float, float]] = field(default_factory=dict)
    """Median and 99.9th percentile of the maps of validation/good: 0 and 100 % of map colours."""
    peaks: dict[Mode, list[float]] = field(default_factory=dict)
    """Largest pixel of the map of each validation scan."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes that `predict` returns."""
        return tuple(self.thresholds)


def fit(
    train: Sequence[PatchFeatures],
    validation: Sequence[PatchFeatures],
    config: Config,
    seed: int,
    adaptors: Adaptors | None = None,
    labelled: Mapping[Modality, Labelled] | None = None,
) -> Detector:
    """Banks from the training scans; scales and thresholds from the validation/good scans.

    Heads are trained if there are labelled patches. Raises InputError for fewer than two validation
    scans, which have no spread.
    """
    require_validation(len(validation))
    if config.detector.fusion == "product" and config.detector.calibrate:
        raise InputError("fusion product needs detector.calibrate false: z-scores can be negative")
    adapted = [adapt(adaptors, each) for each in train]
    banks = fit_banks(adapted, config, seed)
    heads: dict[Modality, Head] = {}
    if labelled:
        held = [adapt(adaptors, each) for each in validation]
        heads = train_heads(banks, adapted, held, labelled, seed)
    unscaled = Detector(banks, {}, {}, {}, config, adaptors, heads)
    raw = [evidence(unscaled, features) for features in validation]
    scales = scales_of(raw, validation, config)
    found = [fuse(standardise(each, scales), config.detector) for each in raw]
    scores = {mode: [modes[mode].image_score for modes in found] for mode in found[0]}
    thresholds = thresholds_of(scores, config.detector)
    surface, peaks = surface_of(found, validation, config)
    fitted = replace(unscaled, scales=scales, thresholds=thresholds, validation_scores=scores)
    return replace(fitted, surface=surface, peaks=peaks)


def fit_banks(train: Sequence[PatchFeatures], config: Config, seed: int) -> dict[Modality, Bank]:
    """One bank per modality, each keeping its own share of the valid patches."""
    banks: dict[Modality, Bank] = {}
    for m in train[0].by_modality:
        own = config.bank.keep_ratio_rgb if m == "rgb" else None
        ratio = config.bank.keep_ratio if own is None else own
        banks[m] = bank_of(train, rows_of_modality(m), ratio, config.bank, seed)
    if config.bank.statistics == "shared" and len(banks) > 1:
        mean, std = banks["3d"].mean, banks["rgb"].std
        banks = {m: restandardised(bank, mean, std) for m, bank in banks.items()}
    return banks


def predict(detector: Detector, features: PatchFeatures) -> dict[Mode, Prediction]:
    """Map and score of one sample in each mode of the detector."""
    found = evidence(detector, features)
    return fuse(standardise(found, detector.scales), detector.config.detector)


def evidence(detector: Detector, features: PatchFeatures) -> dict[Evidence, Prediction]:
    """Map and score of one sample by each evidence alone, before standardisation.

    Disagreement needs projections trained by alignment, and scales from validation/good scans.
    """
    config, adaptors, banks = detector.config, detector.adaptors, detector.banks
    features = adapt(adaptors, features)
    searched = search(banks, features, config)
    found = predictions_of(searched, features, config)
    weights = config.training.weights
    wanted = config.detector.disagreement and config.detector.calibrate
    if adaptors is not None and wanted and (weights.la or weights.ga):
        differing = disagreement(adaptors, features)
        patches = patch_map(differing, features)
        found[DISAGREEMENT] = prediction_of(patches, float(differing.max()), features, config)
    if detector.heads:
        patches = head_scores(detector.heads, banks, searched, features)
        found[HEADS] = prediction_of(patches, float(patches.max()), features, config)
    return found


def predictions_of(
    found: dict[Modality, Searched], features: PatchFeatures, config: Config
) -> dict[Evidence, Prediction]:
    """Map and score by each modality, from its distances."""
    return {
        m: prediction_of(own.distances, own.largest, features, config) for m, own in found.items()
    }


def search(
    banks: dict[Modality, Bank], features: PatchFeatures, config: Config
) -> dict[Modality, Searched]:
    """The nearest bank row of every patch of one sample, by modality; features are adapted."""
    reweighted = config.detector.image_score == "reweighted"
    return {
        m: search_bank(bank, rows_of_modality(m), features, reweighted) for m, bank in banks.items()
    }


def standardise(
    found: dict[Evidence, Prediction], scales: dict[Evidence, Scale]
) -> dict[Evidence, Prediction]:
    """The predictions in standard deviations of validation/good, so evidences are comparable."""
    return {
        e: Prediction(
            (prediction.anomaly_map - scales[e].map_mean) / scales[e].map_std,
            (prediction.image_score - scales[e].score_mean) / scales[e].score_std,
        )
        for e, prediction in found.items()
    }


def fuse(found: dict[Evidence, Prediction], config: DetectorConfig) -> dict[Mode, Prediction]:
    """Each evidence alone, the modalities fused, then one further evidence added at a time."""
    modalities = [e for e in found if e in MODALITIES]
    modes = {m: found[m] for m in modalities}
    name, fused = "+".join(reversed(modalities)), [found[m] for m in modalities]
    modes[name] = join(fused, config)
    for extra in [e for e in found if e not in MODALITIES]:
        name, fused = f"{name}+{extra}", [*fused, found[extra]]
        modes |= {extra: found[extra], name: join(fused, config)}
    return modes


def join(parts: Sequence[Prediction], config: DetectorConfig) -> Prediction:
    """Maps and scores of several evidences, fused as the config says."""
    maps = torch.stack([p.anomaly_map for p in parts])
    scores = torch.tensor([p.image_score for p in parts], dtype=torch.float64)
    if config.fusion == "mean":
        return Prediction(maps.mean(dim=0), float(scores.mean()))
    if config.fusion == "sum":
        return Prediction(maps.sum(dim=0), float(scores.sum()))
    return Prediction(maps.prod(dim=0), float(scores.prod()))


def scales_of(
    raw: Sequence[dict[Evidence, Prediction]], scans: Sequence[PatchFeatures], config: Config
) -> dict[Evidence, Scale]:
    """Scale of each evidence from its predictions of good scans; 0 and 1 if `calibrate` is off."""
    if not config.detector.calibrate:
        return dict.fromkeys(raw[0], Scale())
    inside = [map_valid(features, config) for features in scans]
    return {e: _scale([found[e] for found in raw], inside) for e in raw[0]}


def surface_of(
    found: Sequence[dict[Mode, Prediction]], scans: Sequence[PatchFeatures], config: Config
) -> tuple[dict[Mode, tuple[float, float]], dict[Mode, list[float]]]:
    """`surface` and `peaks` of the detector that found this in good scans, by mode."""
    inside = [map_valid(features, config) for features in scans]
    maps = {
        mode: [own[mode].anomaly_map[mask] for own, mask in zip(found, inside, strict=True)]
        for mode in found[0]
    }
    ends = {mode: np.percentile(torch.cat(own).cpu(), (50, 99.9)) for mode, own in maps.items()}
    surface = {mode: (float(low), float(high)) for mode, (low, high) in ends.items()}
    return surface, {mode: [float(each.max()) for each in own] for mode, own in maps.items()}


def _scale(predictions: list[Prediction], inside: list[Bool[Tensor, "S S"]]) -> Scale:
    pairs = zip(predictions, inside, strict=True)
    pixels = torch.cat([p.anomaly_map[mask] for p, mask in pairs]).double()
    scores = torch.tensor([p.image_score for p in predictions], dtype=torch.float64)
    return Scale(
        float(pixels.mean()),
        # Identical validation scans have no spread; they are then only centred.
        float(pixels.std()) or 1.0,
        float(scores.mean()),
        float(scores.std()) or 1.0,
    )


def require_validation(scans: int) -> None:
    """Raises InputError for fewer than two validation scans, which have no spread."""
    if scans < LEAST_VALIDATION:
        raise InputError(too_few_validation(scans))
