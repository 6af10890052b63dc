"""PatchCore per modality, cross-modal disagreement, and their fusion; save and load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from lsfa_lib.adaptation.adaptors import Adaptors, adapt, described, disagreement, restored
from lsfa_lib.config import Config, DetectorConfig, from_dict
from lsfa_lib.detection.memory import (
    Bank,
    build_bank,
    nearest_rows,
    restandardised,
    reweighted_score,
)
from lsfa_lib.features.extract import distinct_rows
from lsfa_lib.records import MODALITIES, Evidence, Modality, Mode, PatchFeatures, Prediction
from lsfa_lib.storage.files import InputError, atomic_write


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of one evidence on validation/good: of map pixels, of scores."""

    map_mean: float = 0.0
    map_std: float = 1.0
    score_mean: float = 0.0
    score_std: float = 1.0


@dataclass(frozen=True)
class Detector:
    """All that is needed to score a new scan."""

    banks: dict[Modality, Bank]
    scales: dict[Evidence, Scale]
    thresholds: dict[Mode, float]
    """A part is called defective above it; from validation/good alone."""
    validation_scores: dict[Mode, list[float]]
    config: Config
    adaptors: Adaptors | None = None
    """None: features are scored as the backbones give them."""

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes `predict` answers in."""
        return tuple(self.thresholds)


@dataclass(frozen=True)
class Searched:
    """What one modality says of a sample, as a whole and patch by patch."""

    prediction: Prediction
    distances: Float[Tensor, " P"]
    """To the nearest bank row; 0 where there is no patch."""
    nearest: Int[Tensor, " P"]
    """That row; -1 where there is no patch."""


def fit(
    train: Sequence[PatchFeatures],
    validation: Sequence[PatchFeatures],
    config: Config,
    seed: int,
    adaptors: Adaptors | None = None,
) -> Detector:
    """Banks from the training scans; scales and thresholds from the validation/good scans.

    Raises InputError with fewer than two validation scans, which cannot show a spread.
    """
    if len(validation) < 2:
        raise InputError(
            f"{len(validation)} validation/good scans, at least 2 are needed to set scale and "
            "threshold; move some training scans there"
        )
    if config.detector.fusion == "product" and config.detector.calibrate:
        raise InputError("fusion product needs detector.calibrate false: z-scores have signs")
    if adaptors is not None:
        train = [adapt(adaptors, features) for features in train]
    banks = fit_banks(train, config, seed)
    raw = [evidence(banks, adaptors, features, config) for features in validation]
    scales = scales_of(raw, validation, config)
    scores: dict[Mode, list[float]] = {}
    for found in raw:
        for mode, prediction in fuse(standardise(found, scales), config.detector).items():
            scores.setdefault(mode, []).append(prediction.image_score)
    rate = config.detector.false_alarm_rate
    thresholds = {mode: threshold_of(values, rate) for mode, values in scores.items()}
    return Detector(banks, scales, thresholds, scores, config, adaptors)


def fit_banks(train: Sequence[PatchFeatures], config: Config, seed: int) -> dict[Modality, Bank]:
    """One bank a modality, each keeping its own share of the valid patches."""
    patches = sum(int(features.valid.sum()) for features in train)
    pooled: dict[Modality, tuple[Tensor, Tensor]] = {}
    for m in MODALITIES:
        parts, sources = [], []
        for scan, features in enumerate(train):
            rows, index = distinct_rows(features, m)
            first = torch.full((rows.shape[0],), features.valid.shape[0], device=index.device)
            held = torch.nonzero(index >= 0).flatten()
            first.scatter_reduce_(0, index[held], held, reduce="amin")
            parts.append(rows)
            sources.append(torch.stack((torch.full_like(first, scan), first), dim=1))
        pooled[m] = (torch.cat(parts), torch.cat(sources))
    ratios: dict[Modality, float] = {"3d": config.bank.keep_ratio, "rgb": config.bank.keep_ratio}
    if config.bank.keep_ratio_rgb is not None:
        ratios["rgb"] = config.bank.keep_ratio_rgb
    banks: dict[Modality, Bank] = {}
    for m, (rows, source) in pooled.items():
        keep = min(rows.shape[0], max(1, round(ratios[m] * patches)))
        banks[m] = build_bank(rows, source, keep, config.bank, seed)
    if config.bank.statistics == "shared":
        mean, std = banks["3d"].mean, banks["rgb"].std
        banks = {m: restandardised(bank, mean, std) for m, bank in banks.items()}
    return banks


def predict(detector: Detector, features: PatchFeatures) -> dict[Mode, Prediction]:
    """Map and score of one sample in each mode of the detector."""
    found = evidence(detector.banks, detector.adaptors, features, detector.config)
    return fuse(standardise(found, detector.scales), detector.config.detector)


def evidence(
    banks: dict[Modality, Bank],
    adaptors: Adaptors | None,
    features: PatchFeatures,
    config: Config,
) -> dict[Evidence, Prediction]:
    """Map and score of one sample by each evidence alone, not yet on one scale.

    Disagreement needs heads that alignment trained, and scales from validation/good scans.
    """
    if adaptors is not None:
        features = adapt(adaptors, features)
    found: dict[Evidence, Prediction] = {}
    for m, prediction in predict_modalities(banks, features, config).items():
        found[m] = prediction
    weights = config.training.weights
    wanted = config.detector.disagreement and config.detector.calibrate
    if adaptors is not None and wanted and (weights.la or weights.ga):
        differing = disagreement(adaptors, features)
        found["disagreement"] = _prediction(
            patch_map(differing, features), float(differing.max()), features, config
        )
    return found


def predict_modalities(
    banks: dict[Modality, Bank], features: PatchFeatures, config: Config
) -> dict[Modality, Prediction]:
    """Map and score of one sample by each modality alone, in that modality's distances."""
    return {m: found.prediction for m, found in search(banks, features, config).items()}


def search(
    banks: dict[Modality, Bank], features: PatchFeatures, config: Config
) -> dict[Modality, Searched]:
    """The nearest bank row of every patch of one sample, and what follows from the distances."""
    found: dict[Modality, Searched] = {}
    for m in MODALITIES:
        rows, index = distinct_rows(features, m)
        distances, nearest = nearest_rows(rows, banks[m])
        held = index >= 0
        patches = torch.zeros_like(index, dtype=distances.dtype)
        patches[held] = distances[index[held]]
        if config.detector.image_score == "reweighted":
            largest = reweighted_score(rows, distances, nearest, banks[m])
        else:
            largest = float(distances.max())
        prediction = _prediction(patches, largest, features, config)
        index[held] = nearest[index[held]]
        found[m] = Searched(prediction, patches, index)
    return found


def patch_map(values: Float[Tensor, " V"], features: PatchFeatures) -> Float[Tensor, " P"]:
    """The values of the valid patches on all P, 0 elsewhere."""
    patches = torch.zeros_like(features.valid, dtype=values.dtype)
    patches[features.valid] = values
    return patches


def _prediction(
    patches: Float[Tensor, " P"], largest: float, features: PatchFeatures, config: Config
) -> Prediction:
    anomaly = smooth_map(patches.view(features.grid), map_valid(features, config), config)
    if config.detector.image_score != "top_fraction":
        return Prediction(anomaly, largest)
    count = max(1, round(config.detector.top_fraction * anomaly.numel()))
    return Prediction(anomaly, float(anomaly.flatten().topk(count).values.mean()))


def standardise(
    found: dict[Evidence, Prediction], scales: dict[Evidence, Scale]
) -> dict[Evidence, Prediction]:
    """The predictions in standard deviations of validation/good, which makes evidences equal."""
    return {
        e: Prediction(
            (prediction.anomaly_map - scales[e].map_mean) / scales[e].map_std,
            (prediction.image_score - scales[e].score_mean) / scales[e].score_std,
        )
        for e, prediction in found.items()
    }


def fuse(found: dict[Evidence, Prediction], config: DetectorConfig) -> dict[Mode, Prediction]:
    """Each evidence alone, the two modalities fused, and all three where there are three."""
    modes: dict[Mode, Prediction] = {"3d": found["3d"], "rgb": found["rgb"]}
    modes["rgb+3d"] = _fused([found["3d"], found["rgb"]], config)
    if "disagreement" in found:
        modes["disagreement"] = found["disagreement"]
        modes["rgb+3d+disagreement"] = _fused(list(found.values()), config)
    return modes


def _fused(parts: list[Prediction], config: DetectorConfig) -> Prediction:
    maps = torch.stack([p.anomaly_map for p in parts])
    scores = torch.tensor([p.image_score for p in parts], dtype=torch.float64)
    if config.fusion == "mean":
        return Prediction(maps.mean(dim=0), float(scores.mean()))
    if config.fusion == "sum":
        return Prediction(maps.sum(dim=0), float(scores.sum()))
    return Prediction(maps.prod(dim=0), float(scores.prod()))


def smooth_map(
    patches: Float[Tensor, "R C"], inside: Bool[Tensor, "S S"], config: Config
) -> Float[Tensor, "S S"]:
    """Patch scores as a map of the image's size: bilinear, then Gaussian."""
    size = config.preprocess.image_size
    anomaly = F.interpolate(patches[None, None], (size, size), mode="bilinear")
    sigma = config.detector.blur * size
    if config.detector.blur_8bit:
        top = anomaly.max().clamp_min(1e-12)
        anomaly = (anomaly / top * 255).round() / 255 * top
    anomaly = blur(anomaly, sigma)
    if config.detector.edge_correction:
        anomaly = anomaly / blur(inside[None, None].to(anomaly), sigma).clamp_min(0.5)
    return anomaly[0, 0]


def blur(image: Float[Tensor, "1 1 S S"], sigma: float) -> Float[Tensor, "1 1 S S"]:
    """Gaussian blur in float, cut at 4 sigma, the border reflected; sigma in pixels."""
    if sigma == 0:
        return image
    reach = int(4 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.softmax(-steps.square() / (2 * sigma**2), dim=0)
    padded = F.pad(image, [reach] * 4, mode="reflect")
    # Along rows, then along columns: a two-dimensional kernel costs 30 to 60 times as much.
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def map_valid(features: PatchFeatures, config: Config) -> Bool[Tensor, "S S"]:
    """Pixels of valid patches."""
    px = config.projection.patch_px
    return features.valid.view(features.grid).repeat_interleave(px, 0).repeat_interleave(px, 1)


def scales_of(
    raw: Sequence[dict[Evidence, Prediction]], scans: Sequence[PatchFeatures], config: Config
) -> dict[Evidence, Scale]:
    """Scale of each evidence from what it says of good scans; 0 and 1 where `calibrate` is off."""
    if not config.detector.calibrate:
        return dict.fromkeys(raw[0], Scale())
    inside = [map_valid(features, config) for features in scans]
    return {e: _scale([found[e] for found in raw], inside) for e in raw[0]}


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


def threshold_of(scores: list[float], false_alarm_rate: float) -> float:
    """The score that this share of good parts exceed, if the scores of good parts are normal."""
    values = torch.tensor(scores, dtype=torch.float64)
    return float(values.mean() + values.std() * NormalDist().inv_cdf(1 - false_alarm_rate))


def save(detector: Detector, path: Path) -> None:
    """One safetensors file: bank rows, adaptors, and everything else as JSON in its header."""
    tensors, numbers = {}, {}
    for m, bank in detector.banks.items():
        tensors[f"{m}.rows"] = bank.rows.cpu().contiguous()
        tensors[f"{m}.source"] = bank.source.cpu().contiguous()
        numbers[m] = {"mean": bank.mean, "std": bank.std}
    about = {
        "banks": numbers,
        "scales": {m: dataclasses.asdict(scale) for m, scale in detector.scales.items()},
        "thresholds": detector.thresholds,
        "validation_scores": detector.validation_scores,
        "config": dataclasses.asdict(detector.config),
        "adaptors": None,
    }
    if detector.adaptors is not None:
        about["adaptors"] = described(detector.adaptors)
        for name, tensor in detector.adaptors.state_dict().items():
            tensors[f"adaptors.{name}"] = tensor.cpu().contiguous()
    with atomic_write(path) as file:
        file.write_bytes(safetensors_bytes(tensors, metadata={"lsfa_detector": json.dumps(about)}))


def load(path: Path, device: torch.device) -> Detector:
    """The detector `save` wrote; it predicts the same. InputError if the file is not one."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads(file.metadata()["lsfa_detector"])
            banks: dict[Modality, Bank] = {
                m: Bank(
                    rows=file.get_tensor(f"{m}.rows"),
                    source=file.get_tensor(f"{m}.source"),
                    **about["banks"][m],
                )
                for m in MODALITIES
            }
            adaptors = None
            if about["adaptors"] is not None:
                prefix = "adaptors."
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
                adaptors = restored(about["adaptors"], weights, device)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a saved detector ({error}); fit and save it again"
        ) from error
    return Detector(
        banks=banks,
        scales={e: Scale(**scale) for e, scale in about["scales"].items()},
        thresholds=about["thresholds"],
        validation_scores=about["validation_scores"],
        config=from_dict(about["config"]),
        adaptors=adaptors,
    )
